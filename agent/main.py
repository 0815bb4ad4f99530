"""The agent: one process per node."""


def main() -> None:
    """Run the agent."""
