"""``python -m kdtool``."""

from kdtool.cli import main

if __name__ == "__main__":
    main()
