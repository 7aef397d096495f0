"""`imagestreams completion`: what a shell needs to complete these commands, and the answers to what it asks then.

The scripts know nothing of the commands. At each tab they call `imagestreams __complete WORD...`, the last word being
the one that is typed, maybe empty. The answer is Cobra's, since kubectl asks plugins that way: a candidate a line, and
what it is behind a tab; in the last line a colon and a number, the sum of 2 (no space behind it) and 4 (no files).
https://github.com/spf13/cobra/blob/main/site/content/completions/_index.md

Names come from the cluster, asked with the flags on the line, and within `_PATIENCE`: who waits at a prompt is better
off with nothing. What could mean something to a shell is no name of ours and is left out.
"""

from __future__ import annotations

import contextlib
import re
import signal
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem, ShellComplete

from imagestreams.cli.options import Switch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imagestreams.cli.api import Client
    from imagestreams.cli.naming import Kind
    from imagestreams.cli.workloads import PodKind

_PATIENCE: Final = 2.0  # seconds
_MOST: Final = 500  # candidates; also objects that are asked for
_NO_SPACE: Final = 2
_NO_FILES: Final = 4
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@=,-]+")

_BASH: Final = r"""# bash completion for imagestreams; in ~/.bashrc:   source <(imagestreams completion bash)

__imagestreams_complete() {
    local words current line value cut="" prefix="" head mark directive=0
    # Bash parts words at colons and the like; ours are parted by spaces.
    read -r -a words <<<"${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    # What it replaces is only what follows the last of them.
    for mark in : = @; do
        if [[ $COMP_WORDBREAKS == *"$mark"* && $current == *"$mark"* ]]; then
            head=${current%"$mark"*}$mark
            ((${#head} > ${#cut})) && cut=$head
        fi
    done
    [[ $current == -*=* && $COMP_WORDBREAKS != *=* ]] && prefix=${current%%=*}=
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line =~ ^:([0-9]+)$ ]]; then
            directive=${BASH_REMATCH[1]}
            continue
        fi
        value=${line%%$'\t'*}
        COMPREPLY+=("$prefix${value#"$cut"}")
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    ((directive & 2)) && compopt -o nospace 2>/dev/null
    ((directive & 4)) || ((${#COMPREPLY[@]})) || compopt -o default 2>/dev/null
    return 0
}
complete -F __imagestreams_complete imagestreams kubectl-imagestreams
"""

_ZSH: Final = r"""#compdef imagestreams kubectl-imagestreams
# zsh completion for imagestreams; in ~/.zshrc:   source <(imagestreams completion zsh)

_imagestreams() {
    local -a given candidates shown options
    local line directive=0
    given=("${(@Q)words[2,CURRENT]}")
    ((CURRENT > ${#words})) && given+=("")
    for line in "${(@f)$(${(Q)words[1]} __complete "${given[@]}" 2>/dev/null)}"; do
        if [[ $line == :<-> ]]; then
            directive=${line#:}
        elif [[ -n $line ]]; then
            candidates+=("${line%%$'\t'*}")
            shown+=("${line/$'\t'/  -- }")
        fi
    done
    ((directive & 2)) && options+=(-S "")
    [[ ${given[-1]} == -*=* ]] && options+=(-P "${given[-1]%%=*}=")
    if ((${#candidates})); then
        compadd -l -d shown "${options[@]}" -a candidates
    elif ((!(directive & 4))); then
        _files
    fi
}
if [[ ${funcstack[1]} == _imagestreams ]]; then
    _imagestreams "$@"
else
    compdef _imagestreams imagestreams kubectl-imagestreams
fi
"""

_FISH: Final = r"""# fish completion for imagestreams; as the file ~/.config/fish/completions/imagestreams.fish

function __imagestreams_complete
    set -l given (commandline -opc)
    set -l current (commandline -ct)
    set -l program $given[1]
    set -e given[1]
    set -l prefix (string match -r -- '^-[^=]*=' $current)
    set -l files yes
    for line in ($program __complete $given "$current" 2>/dev/null)
        if string match -q -r '^:[0-9]+$' -- $line
            test (math "bitand("(string sub -s 2 -- $line)", 4)") -eq 4; and set files no
        else
            set files no
            printf '%s%s\n' "$prefix" $line
        end
    end
    test $files = yes; and __fish_complete_path $current
end
complete -c imagestreams -f -a '(__imagestreams_complete)'
complete -c kubectl-imagestreams -f -a '(__imagestreams_complete)'
"""

_KUBECTL: Final = """#!/bin/sh
# Completion of `kubectl imagestreams`: as the executable file kubectl_complete-imagestreams in PATH.
exec kubectl-imagestreams __complete "$@"
"""

SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH, "kubectl": _KUBECTL}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def command(shell: str) -> None:
    """Print what a shell needs to complete commands, flags, and the names of streams and tags in the cluster.

    \b
    Bash:     add to ~/.bashrc:   source <(imagestreams completion bash)
    Zsh:      add to ~/.zshrc:    source <(imagestreams completion zsh)
    Fish:     imagestreams completion fish >~/.config/fish/completions/imagestreams.fish
    kubectl:  its own completion asks kubectl_complete-imagestreams, which comes with this program. Where it is not in
              PATH:
              imagestreams completion kubectl >~/bin/kubectl_complete-imagestreams
              chmod +x ~/bin/kubectl_complete-imagestreams

    \b
    Examples:
      source <(imagestreams completion bash)

    Exit code: 0 done, 2 called wrongly.
    """  # noqa: D301  # \b is click's mark for lines to keep
    click.echo(SCRIPTS[shell], nl=False)


# ---- answers ----


@click.command(
    "__complete",
    hidden=True,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def answer(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Answer a shell; never an error, which nobody would see."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)  # noqa: S101  # main's
    candidates, directive = completed(group, words or ("",))
    lines = [f"{value}\t{words}" if words else value for value, words in candidates]
    click.echo("\n".join([*lines, f":{directive}"]))


def completed(group: click.Group, words: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """The candidates for the last of the words, each with what it is, and Cobra's directive."""
    incomplete = words[-1]
    try:
        with _patience():
            items = _Completer(group, {}, "imagestreams", "").get_completions(list(words[:-1]), incomplete)
    except (click.ClickException, _TooLate):
        items = []
    if any(item.type in {"file", "dir"} for item in items):
        return [], 0
    # Of `--flag=value` the value alone is a candidate.
    begin = incomplete.partition("=")[2] if incomplete.startswith("-") and "=" in incomplete else incomplete
    found = {
        str(item.value): " ".join((item.help or "").split())
        for item in items
        if _PLAIN.fullmatch(str(item.value)) and str(item.value).startswith(begin)
        # A name that looks like a flag would be one.
        if incomplete.startswith("-") or not str(item.value).startswith("-")
    }
    is_open = bool(found) and all(value.endswith(("/", "=", ":", "@")) for value in found)
    return list(found.items())[:_MOST], _NO_FILES | (_NO_SPACE if is_open else 0)


class _TooLate(Exception):
    pass


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Raises `_TooLate` where it takes too long, whatever is waited for: a server, a name, a plugin."""

    def late(*_: object) -> NoReturn:
        raise _TooLate

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Completer(ShellComplete):
    """Click's, with what the parameters of our commands can be."""

    name = "cobra"

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        group = self.cli
        assert isinstance(group, click.Group)  # noqa: S101  # main's
        words = [arg for arg in _command_first(args) if not arg.startswith("-")]
        chosen = group.get_command(click.Context(group), words[0]) if words else None
        if words and chosen is None:
            return []
        if isinstance(chosen, click.Group) and words[1:]:
            chosen = chosen.get_command(click.Context(chosen), words[1])
        if chosen is not None:
            for parameter in chosen.params:
                is_flag = isinstance(parameter, click.Option)
                complete = _FLAGS.get(parameter.name or "") if is_flag else _ARGUMENTS.get(chosen.name or "")
                if is_flag and parameter.name == "output" and not isinstance(parameter.type, click.Choice):
                    complete = _forms(parameter.type.name.split("|"))
                if complete is not None:
                    # An instance's own answer, in the place of its type's.
                    parameter.shell_complete = complete  # type: ignore[method-assign]
            bare = {flag for option in chosen.params if isinstance(option, Switch) for flag in option.opts}
            # To click they are options with a value, which the word typed now would be.
            args = [arg for arg in args if arg not in bare]
        return super().get_completions(args, incomplete)


def _command_first(args: Sequence[str]) -> list[str]:
    """The words as `main` reads them."""
    from imagestreams.cli.main import command_first  # noqa: PLC0415  # which imports us

    return command_first(args)


# ---- what parameters can be ----


def _items(values: Iterable[str], words: str = "") -> list[CompletionItem[str]]:
    return [CompletionItem(value, help=words) for value in values]


@contextlib.contextmanager
def _cluster(ctx: click.Context) -> Iterator[tuple[Client, str]]:
    """A client with the flags that are on the line so far, and the namespace."""
    from imagestreams.cli.options import CONNECTION_FLAGS, connected  # noqa: PLC0415

    defaults: dict[str, Any] = dict.fromkeys(CONNECTION_FLAGS, "")
    given = {name: value for name, value in ctx.params.items() if name in defaults and value is not None}
    flags = {**defaults, "as_group": (), **given, "request_timeout": _PATIENCE, "verbose": False}
    flags["insecure_skip_tls_verify"] = bool(flags["insecure_skip_tls_verify"])
    with connected(**flags) as (client, access):
        yield client, access.namespace


def _listed(ctx: click.Context) -> list[Any]:
    """The namespace's streams, as far as one page holds them."""
    from imagestreams.cli.listing import decoded  # noqa: PLC0415

    with _cluster(ctx) as (client, namespace):
        path = client.image_streams().path(namespace)
        return [decoded(body) for body in client.first_items(path, _MOST)]


def _streams(ctx: click.Context, _incomplete: str = "") -> list[CompletionItem[str]]:
    return _items((stream.value.metadata.name for stream in _listed(ctx)), "image stream")


def _tags(ctx: click.Context, _incomplete: str = "") -> list[CompletionItem[str]]:
    """STREAM:TAG, and STREAM where a command takes it for its latest or all."""
    from imagestreams.cli.listing import state_of, tags_of  # noqa: PLC0415

    found = [tag for stream in _listed(ctx) for tag in tags_of(stream)]
    return [CompletionItem(tag.full_name, help=state_of(tag)) for tag in found]


def _images(ctx: click.Context, _incomplete: str = "") -> list[CompletionItem[str]]:
    from imagestreams.cli.listing import images_of  # noqa: PLC0415

    found = [image for stream in _listed(ctx) for image in images_of(stream)]
    return [CompletionItem(image.full_name, help=", ".join(image.now or image.earlier)) for image in found]


def _deployments(ctx: click.Context, _incomplete: str = "") -> list[CompletionItem[str]]:
    from imagestreams.cli.workloads import DEPLOYMENT  # noqa: PLC0415

    return _named(ctx, DEPLOYMENT)


def _named(ctx: click.Context, kind: PodKind) -> list[CompletionItem[str]]:
    """The namespace's objects of a kind."""
    with _cluster(ctx) as (client, namespace):
        return _items(client.first_names(kind.resource.path(namespace), _MOST), kind.name)


def _namespaces(ctx: click.Context, _incomplete: str) -> list[CompletionItem[str]]:
    with _cluster(ctx) as (client, _):
        return _items(client.first_names("/api/v1/namespaces", _MOST), "namespace")


def _entries(section: str) -> Any:
    """The names in a section of the kubeconfig."""

    def complete(ctx: click.Context, _incomplete: str) -> list[CompletionItem[str]]:
        import os  # noqa: PLC0415

        from imagestreams.cli.kubeconfig import KubeconfigError, Overrides, names_in  # noqa: PLC0415

        try:
            return _items(names_in(section, Overrides(kubeconfig=ctx.params.get("kubeconfig") or ""), os.environ))
        except KubeconfigError:
            return []

    return complete


def _files(_ctx: click.Context, _incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem("", type="file")]


def _forms(forms: Sequence[str]) -> Any:
    """Those of `options.output_option`, which names its type so."""
    written = [f"{form}=" if form.startswith("jsonpath") else form for form in forms]
    return lambda _ctx, _incomplete: _items(written)


def _kinds(*also: str) -> list[CompletionItem[str]]:
    return [
        CompletionItem("streams", help="image streams"),
        CompletionItem("tags", help="tags of image streams"),
        CompletionItem("images", help="images of their histories"),
        *(CompletionItem(kind, help="a workload, and what it follows") for kind in also),
    ]


def _targets(ctx: click.Context, incomplete: str, *also: str) -> list[CompletionItem[str]]:
    """A kind, then names of it; or KIND/NAME."""
    from imagestreams.cli.naming import IMAGE, STREAM, TAG, kind_of  # noqa: PLC0415
    from imagestreams.cli.workloads import WORKLOAD  # noqa: PLC0415

    names: dict[Kind, Any] = {STREAM: _streams, TAG: _tags, IMAGE: _images, WORKLOAD: _deployments}
    given = ctx.params.get("what") or ()
    before, slash, _ = incomplete.partition("/")
    kind = kind_of(before if slash else given[0] if given else "", list(names))
    if kind is None:
        return _kinds(*also)
    found = names[kind](ctx)
    return [CompletionItem(f"{before}/{item.value}", help=item.help) for item in found] if slash else found


def _described(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """As `get`, and workloads; a tag by its name alone, too."""
    found = _targets(ctx, incomplete, "deployment")
    if ":" in incomplete and not ctx.params.get("what"):
        found += _tags(ctx)
    return found


def _objects(ctx: click.Context, incomplete: str, kinds: Sequence[PodKind]) -> list[CompletionItem[str]]:
    """KIND/NAME of these kinds."""
    from imagestreams.cli.naming import kind_of  # noqa: PLC0415

    word, slash, _ = incomplete.partition("/")
    if not slash:
        return _items((f"{kind.words[1]}/" for kind in kinds), "KIND/NAME")
    kind = kind_of(word, kinds)
    return [CompletionItem(f"{word}/{item.value}", help=item.help) for item in _named(ctx, kind)] if kind else []


def _triggered(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    from imagestreams.cli.workloads import TRIGGERED  # noqa: PLC0415

    return _objects(ctx, incomplete, TRIGGERED)


def _looked_up(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """Streams, and KIND/NAME of what may name their tags."""
    from imagestreams.cli.workloads import LOOKED_UP  # noqa: PLC0415

    return [*([] if "/" in incomplete else _streams(ctx)), *_objects(ctx, incomplete, LOOKED_UP)]


def _held(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """Tags, and Deployments as KIND/NAME."""
    from imagestreams.cli.workloads import WORKLOAD  # noqa: PLC0415

    return [*([] if "/" in incomplete else _tags(ctx)), *_objects(ctx, incomplete, (WORKLOAD,))]


_ARGUMENTS: Final[dict[str, Any]] = {
    "get": _targets,
    "describe": _described,
    "import-image": _tags,
    "history": _tags,
    "rollback": _tags,
    "resume": _held,
    "tag": _tags,
    "set-triggers": _triggered,
    "set-lookup": _looked_up,
}
"""What the arguments of a command are."""

_FLAGS: Final[dict[str, Any]] = {
    "namespace": _namespaces,
    "context": _entries("contexts"),
    "cluster": _entries("clusters"),
    "user": _entries("users"),
    **dict.fromkeys(("kubeconfig", "certificate_authority", "client_certificate", "client_key", "config"), _files),
    **dict.fromkeys(("names", "credentials", "registries_file"), _files),
    "tag": _tags,
}
"""What a flag's value is, by the parameter's name."""
