"""Multi-task prompts, the paper's MPT-2: several data sets of one kind learn one prompt, then each goes on alone.

    load_multitask_config(path) -> MultitaskConfig -> train_multitask(config) -> MultitaskResult

Source: Liu et al., ACL 2022, arXiv 2110.07602, on multi-task learning: the training sets of a kind of task combined, a
linear head for each data set, prompts shared by all, then used as the start for each. Its code was never released, and
the paper says neither whose batch is next nor how many steps each stage has. Both are settings here.
"""
