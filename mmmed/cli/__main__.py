"""``python -m mmmed.cli``: the ``mmmed`` command."""

from mmmed.cli import main

if __name__ == "__main__":
    main()
