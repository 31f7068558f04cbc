"""What the questions share: a Redis of their own, the contenders, rounds, figures, tables and plots."""
