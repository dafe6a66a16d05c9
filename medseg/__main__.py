"""``python -m medseg``."""

from medseg.cli.main import run

if __name__ == "__main__":
    run()
