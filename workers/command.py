"""How a process type's command is run: by bash, as the container's first process, so that SIGTERM reaches the app."""

import re
import shlex

# Runs before every command, in the app's folder.
PROFILE = "if [ -f .profile ]; then . ./.profile; fi\n"

# A process 1 gets no signal that it has no handler for. So a command that bash has to stay for runs in a child, and
# bash hands SIGTERM on to everything in the container, and stays until all have ended: the child itself dies at once,
# what it had started may have something to finish. (Run anywhere else, -1 would be the whole machine.)
RELAY = """\
trap 'ending=1; [ $$ = 1 ] && kill -TERM -- -1 2>/dev/null' TERM
( eval "$0" ) &
while wait $!; code=$?; kill -0 $! 2>/dev/null; do :; done
while [ -n "$ending" ] && [ $$ = 1 ] && kill -0 -- -1 2>/dev/null; do sleep 0.02; done
exit $code
"""

# What `exec` cannot take: keywords, and builtins that change or steer the shell itself.
SHELL_WORDS = re.compile(
    r"if|then|for|while|until|case|select|function|time|coproc|\{|\[\[?|!|:|\.|cd|export|source|eval|set|unset|exec|exit"
    r"|ulimit|umask|trap|read|shift|test|true|false|echo|printf|wait|declare|local|alias|return|let|pushd|popd"
)


def process_args(command: str) -> tuple[str, ...]:
    """The argv of an instance that runs `command`."""
    simple = as_exec(command)
    script = PROFILE + (simple or RELAY)
    return ("/bin/bash", "-c", script) if simple else ("/bin/bash", "-c", script, command)


def as_exec(command: str) -> str | None:
    """`command` with an `exec` before it, if it is one simple command; else None."""
    try:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.commenters = ""
        words = list(lexer)
    except ValueError:  # an open quote: bash shall say so
        return None
    if not words or "\n" in command.strip() or any(set(word) <= set("();<>|&") for word in words):
        return None
    if SHELL_WORDS.fullmatch(words[0]) or "`" in command or "$(" in command:
        return None
    return f"exec env {command}" if "=" in command.split(maxsplit=1)[0] else f"exec {command}"
