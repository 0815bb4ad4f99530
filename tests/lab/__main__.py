"""`python -m tests.lab build|up|down|shell|run|status`: the lab by hand."""

import os
import subprocess
import sys

import click

from .build import SSH_KEY, build
from .lab import NAME, Lab
from .machine import ssh_port


@click.group()
def main() -> None:
    """Virtual hosts with real OpenZFS; HOLDFAST_LAB_NAME names the lab, HOLDFAST_LAB its cache folder."""


@main.command("build")
def build_command() -> None:
    """Build all that hosts run from; quick where nothing changed."""
    click.echo(build().folder)


@main.command()
@click.option("--hosts", default=2, show_default=True, type=click.IntRange(1, 9))
@click.option("--etcd/--no-etcd", default=True, show_default=True, help="An etcd beside the hosts.")
@click.option("--deploy/--no-deploy", default=True, show_default=True, help="This checkout's code on the hosts.")
def up(hosts: int, etcd: bool, deploy: bool) -> None:
    """Start hosts with an empty pool `tank` each; a lab of the same name is taken down first."""
    lab = Lab()
    lab.up(hosts)
    if etcd:
        lab.start_etcd()
    if deploy:
        for host in lab.hosts:
            host.deploy()
    click.echo(f"shell: make lab-shell HOST=1    here, in its network: python -m tests.lab run COMMAND    lab: {NAME}")


@main.command()
def down() -> None:
    """Stop and remove the lab."""
    Lab().down()


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("host", type=click.IntRange(1, 9))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(host: int, command: tuple[str, ...]) -> None:
    """A shell in a host, or one command there."""
    lab = Lab()
    lab.attach()
    lab.hosts[host - 1].run("pgrep -x sshd >/dev/null || { ssh-keygen -A >/dev/null; /usr/sbin/sshd; }")
    options = ("-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
    argv = ["ssh", *options, "-i", str(SSH_KEY), "-p", str(ssh_port(host)), "root@127.0.0.1", *command]
    sys.exit(subprocess.run(argv, check=False).returncode)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...]) -> None:
    """Run a command of this machine in the lab's network, as the command line and etcd are."""
    lab = Lab()
    lab.attach()
    os.execvp(command[0], command)


main()
