"""The `holdfast` command: people steer by writing desired state."""


def main() -> None:
    """Run the command line."""
