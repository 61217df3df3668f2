"""`python -m mgm_dali`, `deepspeed --module mgm_dali`, `torchrun -m mgm_dali`: the command line."""

from mgm_dali.cli import main

if __name__ == "__main__":  # DALI's worker processes import this file and must not start a run
    main()
