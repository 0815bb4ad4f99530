"""The coordinator: runs beside etcd; one is elected and decides."""


def main() -> None:
    """Run the coordinator."""
