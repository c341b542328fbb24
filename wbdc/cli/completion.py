"""wbdc completion: print the script that completes commands, options and names in a shell."""

import click

from wbdc.cli import console, shared_options

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "wbdc"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@shared_options.as_json
def completion(shell: str, as_json: bool) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of kits, runs, ensembles and pseudo-labels in
    ./work, or in $WBDC_WORK.

    \b
    Example:
      wbdc completion bash >> ~/.bashrc
      wbdc completion zsh >> ~/.zshrc
      wbdc completion fish > ~/.config/fish/completions/wbdc.fish
    """
    from click.shell_completion import get_completion_class

    from wbdc.cli import main

    script_of = get_completion_class(shell)
    # the attribute alone: `source()` of bash first starts bash to test its version
    values = script_of(main, {}, PROGRAM, "_WBDC_COMPLETE").source_vars()
    script = script_of.source_template % values
    if as_json:
        return console.print_json({"shell": shell, "script": script})
    return click.echo(script)
