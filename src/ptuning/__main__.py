"""`python -m ptuning` is the command `ptuning`: what launchers of several processes start."""

from ptuning.cli import main

if __name__ == "__main__":
    main()
