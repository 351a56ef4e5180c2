"""The argparse parser that our commands share.

No abbreviations, no usage lines before an error, the nearest flag named, and a note where a flag's second value replaces
its first.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from nemo_workflow.utils import pasted, startup
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import preprocessing_of, script
from nemo_workflow.utils.meant import close_to, digits, meant

EMPTY = "''"  # an empty word, as it is typed
UNSET = "a shell variable may be unset"


class Parser(argparse.ArgumentParser):
    """Raises Refusal where argparse would print its usage and exit; the parsers of subcommands are of this class too."""

    # What this command line has given so far, by destination: a subcommand's flag may set what one before it set.
    given: ClassVar[dict[str, tuple[str, Any]]] = {}
    words: ClassVar[Sequence[str]] = ()  # of this command line

    def __init__(
        self,
        *args: Any,
        meanings: Mapping[str, str] | None = None,
        typed: Callable[[str], str] | None = None,
        of_command: Callable[[str], str] | None = None,
        stands_for: Callable[[str, str], Mapping[str, str]] | None = None,
        **keywords: Any,
    ):
        """What the command knows of its words.

        `meanings`: what to say to a flag of another tool; `secret` flags are never proposed. `typed`: a word that lacks its
        flag with the flag, '' where it is for none; `of_command`: what to say to a word where a subcommand is expected;
        `stands_for`: by an unknown flag and its value, what is typed for the words in capitals of what is said of it.
        """
        super().__init__(*args, **{**keywords, "allow_abbrev": False})
        # pretrain_llm.py has the flag itself, so that nobody is told so there
        versions = f"{script('pretrain_llm.py')} --version prints the versions"
        self.meanings: dict[str, str] = {"--version": versions, **(meanings or {})}
        self.secret: set[str] = set()
        self.may_be_empty: set[str] = set()  # destinations for which nothing is a value too
        self.needed: list[tuple[str, ...]] = []  # destinations of which one must be given
        # subcommand, or '' for none -> what to say to a word too many
        self.takes_no_word: dict[str, Callable[[str], str]] = {}
        self.there_are: dict[str, Callable[[], str]] = {}  # what may be missing -> what there is to choose from
        self.refused_without: set[str] = set()  # destinations whose absence the command itself refuses
        self.for_words = ""  # the flag that a word alone was meant for
        self.for_new = ""  # and the one for a word behind it that names nothing yet
        self._typed = typed or self._with_for_words
        self._of_command = of_command
        self._stands_for = stands_for
        self.any_text: set[str] = set()  # destinations whose text may hold any quotes and blanks
        for name in (None, "store"):
            self.register("action", name, _Store)
        self.register("action", argparse.BooleanOptionalAction, _Switch)

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch(r"argument (\S+): expected (one|at least one|\d+) arguments?", message):
            action = next(action for action in _actions(self) if "/".join(action.option_strings) == found[1])
            if said := self.meanings.get(f"{_long(action)} "):
                raise Refusal(f"{_on_line(action)}: no value; {said}")
            if path := _begins_with_a_dash(action):
                raise Refusal(
                    f"{_on_line(action)}: {path} begins with a dash, as flags do: type {_on_line(action)} {shlex.quote(f'./{path}')}"
                )
            if action.choices:
                ways = " or ".join(f"{_on_line(action)} {choice}" for choice in action.choices)
                raise Refusal(f"{_on_line(action)}: no value; {UNSET}: type {ways}, or leave the flag out")
            raise Refusal(no_value(_on_line(action), "no value", not self._is_needed(action)))
        if found := re.fullmatch(r"argument (\S+): ignored explicit argument '(.*)'", message, re.DOTALL):
            typed = (word.partition("=")[0] for word in Parser.words if word.endswith(f"={found[2]}"))
            raise Refusal(_no_switch_value(next(typed, found[1].split("/")[0]), found[2]))
        if found := re.fullmatch(r"the following arguments are required: (.+)", message):
            optional = {action.dest for action in self._actions if action.nargs == argparse.REMAINDER}
            names = [name.split("/")[0] for name in found[1].split(", ") if name not in optional]
            # an argument as the help shows it: TEXT, not the name of its destination
            shown = [name if name.startswith("-") else name.upper() for name in names]
            raise Refusal([*self._unknown_beside(), *self._required(shown)])
        number = re.fullmatch(r"argument \S+: invalid (int|float) value: '(\D+)'", message, re.DOTALL)
        # a word that the flag took
        taken = f"; the word behind the flag is its value: {UNSET}" if number and any(_places(self)) else ""
        raise Refusal(f"{message}{taken}{self._choice_meant(message)} (see --help)")

    def _choice_meant(self, message: str) -> str:
        """'; did you mean X?' for a value, or a subcommand, that is none of those known, or nothing."""
        found = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if not found:
            return ""
        flag, value = found[1].split("/")[-1].replace("_", "-"), found[2]
        said = self.meanings.get(f"{flag} {value.lower()}")
        if not value:
            return f"; it is empty: {UNSET}"
        is_flag = flag.startswith("-")
        if not is_flag and self._of_command and (said_of_it := self._of_command(value)):
            return f"; {said_of_it}"
        choices = re.findall(r"[^\s',]+", found[3])
        close = close_to(value, choices) or close_to(value.lower(), choices)
        close = [one for one in close if digits(one) in ("", digits(value)) or not digits(value)]
        if said or close:
            return f"; {said}" if said else f"; did you mean {close[0]}?"
        if "=" in value and (hydra := self._said_of_word(value)):  # behind a flag that may have a value
            return f"; {hydra}"
        last = is_flag and value == [*Parser.words][-1] and any(_places(self))
        return f"; the word behind the flag is its value: {UNSET}" if last else ""

    def _required(self, shown: Sequence[str]) -> Iterator[str]:
        """What is missing, but for a flag that an unknown one was meant for: that has been said."""
        meant = self._meant(self._unknown())
        missing = [name for name in shown if not re.search(rf"{re.escape(name)}\b(?!-)", meant)]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            yield f"{', '.join(missing)} {verb} required{self._why_missing(missing)} (see --help)"

    def _why_missing(self, missing: Sequence[str]) -> str:
        """How what is missing may have been meant to be there; or nothing."""
        if any(not name.startswith("-") for name in missing) and (taken := self.taken()):
            return taken
        there = "".join(f"; {said}" for name in missing if name in self.there_are and (said := self.there_are[name]()))
        if "" in Parser.words:
            return f"{there}; a word on the line is empty: {UNSET}"
        if any(_long(action) in missing for action in _places(self)):  # which an unset variable leaves without a word
            return f"{there}; {UNSET}"
        typed: dict[str, str] = {}  # flag -> with the first word for it
        for word in self.alone():
            with_flag = self._typed(word) or self._as_new(word, typed)
            typed.setdefault(with_flag.partition(" ")[0], with_flag)
        meant = [words for flag, words in typed.items() if flag in missing]
        if meant and self.for_new not in (*missing, *Parser.words):  # whose absence the command itself refuses
            meant.append(typed.get(self.for_new, ""))
        return f"; did you mean {' '.join(filter(None, meant))}?" if meant else there

    def _with_for_words(self, word: str) -> str:
        """A word with the flag that it was meant for: one that is there, or any at the beginning where no word has a place."""
        first = word == Parser.words[0] and not any(_places(self))
        return f"{self.for_words} {shlex.quote(word)}" if self.for_words and (first or is_there(word)) else ""

    def _as_new(self, word: str, before: Collection[str]) -> str:
        """A word that names nothing yet with the flag of what is written, where another word stands before it."""
        return f"{self.for_new} {shlex.quote(word)}" if self.for_new and before and not is_there(word) else ""

    def _each_with_its_flag(self, words: Sequence[str]) -> str:
        """Several words alone, each with the flag that it was meant for; '' where that isn't known of one, or is of two."""
        typed: dict[str, str] = {}
        for word in words:
            with_flag = self._typed(word) or self._as_new(word, typed)
            flag = with_flag.partition(" ")[0]
            if not flag or flag in typed or flag in Parser.words:
                return ""
            typed[flag] = with_flag
        return f"did you mean {' '.join(typed.values())}?" if len(typed) > 1 else ""

    def alone(self) -> Iterator[str]:
        """The words that are no flag, nor the value of one."""
        takes = {name for action in _actions(self) if action.nargs != 0 for name in action.option_strings}
        for before, word in itertools.pairwise(["", *Parser.words]):
            if word and not word.startswith("-") and before not in takes:
                yield word

    def _unknown_beside(self) -> Iterator[str]:
        """argparse leaves unknown flags unsaid where a required one is missing too: the next thing to stumble over."""
        if unknown := self._unknown():
            yield f"{self._unrecognized(unknown)} (see --help)"

    def _unrecognized(self, unknown: Sequence[str]) -> str:
        """The unknown flags as they were typed, with their values, or the words too many; and what was meant."""
        words = [*Parser.words, "-"]
        behind = {word: after for word, after in itertools.pairwise(words) if not after.startswith("-")}
        typed = [
            f"{word} {behind[word] or EMPTY}"
            if word in behind and word[:1] == "-" and "=" not in word
            else word or EMPTY
            for word in unknown
        ]
        return f"unrecognized arguments: {' '.join(typed)}{self._meant(unknown)}"

    def _unknown(self) -> list[str]:
        """The words of this command line that look like flags and are none."""
        known = {name for action in _actions(self) for name in action.option_strings}
        words = itertools.takewhile(lambda word: word != "--", Parser.words)
        flags = [word for word in words if re.fullmatch(r"--?[A-Za-z][^\s=]*(=.*)?", word, re.DOTALL)]
        unknown = [flag for flag in flags if flag.partition("=")[0] not in known]
        return [flag for flag in unknown if flag.startswith("--") or flag[:2] not in known]

    def taken(self) -> str:
        """What to say where the last word went to the flag before it: an unset variable leaves no word for the flag."""
        *_, flag, word = ["", "", *Parser.words]
        takes = [action for action in _actions(self) if flag in action.option_strings and action.nargs != 0]
        if not takes or word.startswith("-") or is_there(word):  # the value that was meant
            return ""
        return f": {flag} has taken {word!r} for its own value; a shell variable between them may be unset"

    def _is_needed(self, action: argparse.Action) -> bool:
        """Whether a command without this flag or argument would be refused."""
        dests = {dest for one in self.needed for dest in one} | self.refused_without
        return action.required or action.dest in dests

    def _get_option_tuples(self, option_string: str) -> Any:
        """argparse lets -m stand for -mbs whatever allow_abbrev says; a value that follows at once (-N2) stays."""
        found = super()._get_option_tuples(option_string)
        return [entry for entry in found if entry[1] == option_string or entry[-1] is not None]

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """argparse before 3.13 takes the value of --flag=-- for the end of the flags, and leaves an empty list."""
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        # a subcommand's parser, or the command that the rest is for, looks at its own
        if action.nargs not in (argparse.PARSER, argparse.REMAINDER):
            self._refuse_empty(action, arg_strings)
            self._refuse_pasted(action, arg_strings)
        return super()._get_values(action, arg_strings)

    def _refuse_empty(self, action: argparse.Action, words: Sequence[str]) -> None:
        """An empty path would be the current folder, and another empty value as good as none, both in silence."""
        bare = action.nargs == "?"  # then nothing is a value where no word follows, and "" is none
        if (bare or action.dest not in self.may_be_empty) and any(not word.strip() for word in words):
            raise Refusal(no_value(_on_line(action), "an empty value", not self._is_needed(action)))

    def _refuse_pasted(self, action: argparse.Action, words: Sequence[str]) -> None:
        """“10” for a number, and a name with a no-break space behind it."""
        if action.dest in self.any_text:
            return
        if len(words) > 1 and (typed := pasted.in_quotes(words)):
            raise Refusal(f"{_long(action)}: {pasted.QUOTES_SAID}: type {_long(action)} {typed}")
        if problems := list(filter(None, (pasted.value_problem(_long(action), word) for word in words))):
            secret = _long(action) in self.secret
            raise Refusal([f"{_long(action)}: {pasted.QUOTES_SAID}: type it without"] if secret else problems)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        Parser.given.clear()
        Parser.words = self._spelled(sys.argv[1:] if args is None else args)
        if problems := list(self._odd_flags()):
            raise Refusal(problems)
        found, unknown = self.parse_known_args(Parser.words, namespace)
        if unknown:
            self.error(
                self._unrecognized([word for word in unknown if pasted.with_hyphens(word)[:1] == "-"] or unknown)
            )
        missing = [dests for dests in self.needed if not any(vars(found).get(dest) for dest in dests)]
        if missing:
            flags = [" or ".join(f"--{dest.replace('_', '-')}" for dest in dests) for dests in missing]
            self.error(f"{', '.join(flags)} {'is' if len(flags) == 1 else 'are'} required")
        for name, value in vars(found).items():
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str) and (why := startup.no_home(text)):
                    raise Refusal(f"--{name.replace('_', '-')} {text}: {why}")
        return found

    def _odd_flags(self) -> Iterator[str]:
        """Refusals of flags that are ours but for their dashes; of `-max-steps` argparse would take -m or -h, with a value."""
        known = {name for action in _actions(self) for name in action.option_strings}
        words = itertools.takewhile(lambda word: word != "--", [*Parser.words, ""])
        for word, after in itertools.pairwise(words):
            if problem := pasted.flag_problem(word, after, known | self.meanings.keys(), self.secret):
                yield problem
            name, equals, value = word.partition("=")
            if name[:1] != "-" or name in known:
                continue
            if (at_once := re.fullmatch(r"(-[A-Za-z]{2,})([0-9]+)", word)) and at_once[1] in known:
                yield f"{word}: a blank stands before the value: type {at_once[1]} {at_once[2]}"
                continue
            rest = f"={value}" if equals else f" {pasted.as_typed(after)}".rstrip()
            if (ours := f"-{name.replace('_', '-')}") in known:
                yield f"{name}: a long flag has two dashes: type {ours}{rest if ours not in self.secret else ' ***'}"
            elif ours := next((flag for flag in sorted(known) if flag.lower() == name.lower()), ""):
                rest = rest if ours not in self.secret else " ***"
                yield f"{name}: capital letters are told from small ones: type {ours}{rest}"

    def _spelled(self, words: Sequence[str]) -> list[str]:
        """The words with our flags as they are defined: underscores stand for hyphens in all of them."""
        known = {name.replace("-", "_"): name for action in _actions(self) for name in action.option_strings}
        spelled, more = [], True
        for word in words:
            more = more and word != "--"
            name, equals, value = word.partition("=")
            ours = known.get(name.replace("-", "_")) if more and name.startswith("--") and "_" in name else None
            spelled.append(f"{ours}{equals}{value}" if ours else word)
        return spelled

    def _meant(self, unknown: Sequence[str]) -> str:
        """'; did you mean --X?' for words that are another tool's flags or look like ours, or nothing."""
        flags = [(pasted.with_hyphens(word).partition("=")[0].replace("_", "-"), word) for word in unknown]
        flags = [(flag, word) for flag, word in flags if flag.startswith("-")]
        if not flags:
            if together := self._each_with_its_flag(unknown):
                return f"; {together}"
            return self._without_flag(unknown[0]) if unknown else ""
        said: dict[str, list[str]] = {}
        for flag, word in flags:
            text = (
                f"a path that begins with a dash is typed {shlex.quote(f'./{word}')}"
                if is_there(word)
                else self._filled(meant(flag, self._known(), self.meanings), flag, word)
            )
            if text or not re.fullmatch(r"-[\d.]+", word):  # -1, the value of the one before it
                said.setdefault(text, []).append(word.partition("=")[0])
        if len(said) == 1:
            return "".join(f"; {text}" for text in said if text)
        return "".join(f"; {', '.join(dict.fromkeys(words))}: {text}" for text, words in said.items() if text)

    def _filled(self, said: str, flag: str, word: str) -> str:
        """What is said of an unknown flag, with this line's own words for those in capitals, so that it can be typed."""
        _, equals, value = word.partition("=")
        value = value if equals else dict(itertools.pairwise([*Parser.words, ""])).get(word, "")
        filled = self._stands_for(flag, pasted.as_typed(value)) if self._stands_for else {}
        for name, ours in filled.items():
            if ours:
                said = re.sub(rf"(?<!\w){name}(?!\w)", lambda _, ours=ours: ours, said)  # type: ignore[misc]
        return said

    def word_alone(self, number: int = 0) -> str:
        """The first word, as it is typed, that is no flag, nor the value of one, or another by its number; '' for none."""
        unknown = {word for word in self._unknown() if "=" not in word}
        values = [after for before, after in itertools.pairwise(Parser.words) if before in unknown]
        found = [word for word in self.alone() if word not in values]
        return pasted.as_typed(found[number]) if number < len(found) else ""

    def _known(self) -> set[str]:
        """The flags that may be proposed."""
        return set(_spellings(self)) - self.secret

    def _without_flag(self, word: str) -> str:
        """What helps where a word follows the value of a flag: a second value, or the rest of one that isn't quoted."""
        if said := self._said_of_word(word):
            return f"; {said}"
        before = Parser.words[: list(Parser.words).index(word)]
        *_, flag, value = ["", "", *before]
        if any(value in action.option_strings and action.nargs == 0 for action in _actions(self)):
            return f"; {_no_switch_value(value, word)}"
        for name, says in self.takes_no_word.items():
            if not name or name in before:
                return f"; {says(word)}"
        many = [
            action
            for action in _actions(self)
            if flag in action.option_strings and isinstance(action, argparse._AppendAction)
        ]
        if many:
            return f"; give {flag} again for each further one: {flag} {shlex.quote(word)}"
        siblings = [path for path in Parser.words if Path(path).parent == Path(word).parent and is_there(path)]
        if value in siblings and len(siblings) > 1:  # step_* without quotes: the shell sorts them
            return f"; {flag} takes one, and got {len(siblings)} (a pattern such as *?): give one of them, such as {siblings[-1]}"
        behind = itertools.takewhile(lambda one: not one.startswith("-"), Parser.words[len(before) :])
        text = flag.startswith("-") and not value[:1].isdigit()
        whole = f": {flag} {shlex.quote(' '.join([value, *behind]))}" if text else ""
        return f"; each value follows its flag, and one with spaces stands in quotes{whole}"

    def _said_of_word(self, word: str) -> str:
        """What is said of a word for itself, wherever it stands: one that was meant for a flag, or a foreign sign; or nothing."""
        if not word:
            return f"it is empty; {UNSET}: give it a value, or leave it out"
        if not word.strip():
            return "it is a blank, as behind the \\ at a line's end: let nothing follow that"
        if typed := pasted.in_quotes(Parser.words):
            return f"{pasted.QUOTES_SAID}: type {typed}"
        if word == "help":
            return "--help prints the help"
        if with_flag := self._typed(word):
            return f"did you mean {with_flag}?"
        if self.for_words and (word == Parser.words[0] or is_there(word)):
            return f"did you mean {self.for_words} {shlex.quote(word)}?"
        known = self._known()
        if word.endswith((".yaml", ".yml")) and "--config" in known:
            return f"did you mean --config {shlex.quote(word)}?"
        if word.endswith((".txt", ".md", ".jsonl")) and "--dataset-dir" in known:
            return f"a text is preprocessed first: {preprocessing_of(word)}"
        # trainer.max_steps=100, as Hydra and NeMo's own command line take it
        name, equals, _ = word.strip().lstrip("-/").partition("=")
        flag = f"--{name.rstrip(':').replace('_', '-')}"
        said = meant(flag, known, self.meanings) if equals or flag in known else ""
        if not said and equals and "." in name:
            return "flags begin with two dashes, and have names of their own: --help all lists them"
        return f"flags begin with two dashes: {said}" if said else ""


class _Store(argparse._StoreAction):
    """The last of two values holds, as everywhere, but not in silence."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if option_string is not None:
            _note_second(self.dest, option_string, values)
        super().__call__(parser, namespace, values, option_string)


class _Switch(argparse.BooleanOptionalAction):
    """--x after --no-x, or the reverse: as a second value."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if option_string is not None:
            _note_second(self.dest, option_string, not option_string.startswith("--no-"))
        super().__call__(parser, namespace, values, option_string)


def value_on_line(flag: str, default: str) -> str:
    """The value that this command line gives a flag, also where argparse doesn't come to it."""
    found = default
    for word, after in itertools.pairwise([*Parser.words, ""]):
        name, equals, value = word.partition("=")
        if name == flag:
            found = (value if equals else after) or default
    return found


def _begins_with_a_dash(action: argparse.Action) -> str:
    """The path behind a flag that argparse took for flags, as it begins with a dash; '' where there is none."""
    behind = (after for before, after in itertools.pairwise(Parser.words) if before in action.option_strings)
    return next((word for word in behind if word.startswith("-") and is_there(word)), "")


def is_there(path: str | Path) -> bool:
    """Whether a word is a path of this machine; a text may be too long for one."""
    return os.path.lexists(path)


def _note_second(dest: str, flag: str, value: Any) -> None:
    before = Parser.given.get(dest)
    Parser.given[dest] = flag, value
    if before is not None and before[1] != value:
        old, new = (_as_typed(dest, name, what) for name, what in (before, (flag, value)))
        print(f"note: {new} replaces {old}, which was given before it", file=sys.stderr)


def _as_typed(dest: str, flag: str, value: Any) -> str:
    # a secret is printed nowhere
    if isinstance(value, bool) or dest.endswith("hf_token"):
        return flag
    return f"{flag} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def no_value(flag: str, what: str, optional: bool) -> str:
    """What to say of a flag with `what`: an empty value, or none. One that is not `optional` can't be left out."""
    return f"{flag}: {what}; {UNSET}: give a value{', or leave the flag out' if optional else ''}"


def _long(action: argparse.Action) -> str:
    """The flag's long name, or the word that stands for an argument."""
    longs = (name for name in action.option_strings if name.startswith("--"))
    return next(longs, str(action.metavar or action.dest).upper())


def _on_line(action: argparse.Action) -> str:
    """The same, by the one of several long names that this command line has."""
    typed = {word.partition("=")[0].replace("_", "-") for word in Parser.words}
    return next((name for name in action.option_strings if name.startswith("--") and name in typed), _long(action))


def _no_switch_value(flag: str, value: str) -> str:
    """The refusal of a switch's value: `--wandb true`."""
    if not value:
        return f"{flag}: an empty value; {UNSET}: it takes none, type {flag} alone or leave it out"
    off = value.lower() in ("false", "no", "off", "0", "none")
    return f"{flag} takes no value; {f'leave {flag} out too' if off else f'type {flag} alone'}"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _places(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What a word without a flag stands for, but for a subcommand."""
    for action in _chosen(parser):
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            yield action


def _chosen(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The actions of a parser, and those of the subcommand that the command line names, or of all where it names none."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            named = [action.choices[word] for word in Parser.words if word in action.choices][:1]
            for command in named or action.choices.values():
                yield from _actions(command)


def _spellings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every flag that can stand where the command line has an unknown one, with hyphens."""
    for action in _chosen(parser):
        yield from (name for name in action.option_strings if "_" not in name)
