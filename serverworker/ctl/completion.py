"""Completion for bash and zsh."""

from __future__ import annotations

from collections.abc import Sequence

from serverworker.values.errors import BadCommand

_TREE = {
    "": "status restart exit set emit events crashes logs help systemd completion "
    "--state-dir --connect --key-file --authority --certificate --json --timeout --help --version",
    "status": "--json --watch",
    "restart": "clean force",
    "exit": "clean force",
    "set": "port polling workers",
    "events": "--since --kind --last --follow --json",
    "crashes": "last --json",
    "logs": "--worker --last --follow --json",
    "systemd": "--name --user --socket --writable --output",
    "completion": "bash zsh",
}

_BASH = """\
# bash completion for serverworkerctl: eval "$(serverworkerctl completion bash)"
_serverworkerctl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command= word skip=
    for word in "${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}"; do
        if [ -n "$skip" ]; then skip=; continue; fi
        case $word in
            --state-dir|--connect|--key-file|--authority|--certificate|--timeout) [ -z "$command" ] && skip=1 ;;
            -*) ;;
            *) [ -z "$command" ] && command=$word ;;
        esac
    done
    case $previous in
        --state-dir) mapfile -t COMPREPLY < <(compgen -d -- "$current"); return ;;
        --key-file|--authority|--certificate) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    esac
    local words
    case $command in
CASES
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _serverworkerctl serverworkerctl
"""

_ZSH_HEAD = """\
# zsh completion for serverworkerctl: eval "$(serverworkerctl completion zsh)", after compinit
autoload -U +X bashcompinit && bashcompinit
"""


def script(arguments: Sequence[str]) -> str:
    """The script for a shell. Raises `BadCommand` for another one."""
    if list(arguments) not in (["bash"], ["zsh"]):
        raise BadCommand("usage: serverworkerctl completion bash|zsh")
    cases = "\n".join(f'        "{command}") words="{words}" ;;' for command, words in _TREE.items())
    bash = _BASH.replace("CASES", f"{cases}\n        *) words= ;;")
    if arguments[0] == "bash":
        return bash
    # zsh has neither mapfile nor process substitution into an array as bash does.
    return _ZSH_HEAD + bash.replace("mapfile -t COMPREPLY < <(", "COMPREPLY=($(").replace(
        '"$current")', '"$current"))'
    )
