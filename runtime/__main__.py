"""`python -m shipway.runtime`: the engine's command."""

from shipway.runtime.cli.main import main

if __name__ == "__main__":
    main()
