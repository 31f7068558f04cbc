"""Several worker processes of one program; ``supervisor.py`` keeps them, ``child.py`` is what runs in each."""
