"""Django's static files, collected in every build: which there are is a matter of the app's code."""

from shipway.buildpacks.kit import say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.kit.run import run

DISABLE = "DISABLE_COLLECTSTATIC"
# What Django says where there is nothing to collect, or nowhere to collect it to.
NOTHING = {
    "Unknown command: 'collectstatic'": "Its app staticfiles is not in INSTALLED_APPS",
    "without having set the STATIC_ROOT": "Its settings have no STATIC_ROOT",
}


def collect_static(context: Context, venv: Layer) -> None:
    """Run collectstatic, if the app is one of Django. Raises CannotBuild."""
    python = f"{venv.path}/bin/python"
    env = {**context.env, "PATH": f"{venv.path}/bin:{context.env['PATH']}"}
    if not _has_django(venv):
        return
    if context.env.get(DISABLE, "0") not in ("", "0"):
        say.step(f"Leaving out Django's static files ({DISABLE} is set)")
        return
    say.step("Collecting Django's static files using 'manage.py collectstatic --noinput'")
    done = run([python, "manage.py", "collectstatic", "--noinput"], env, show=lambda _line: False)
    if done.code == 0:
        for line in filter(None, done.lines[-1:]):
            say.detail(line.strip())
        return
    for sign, why in NOTHING.items():
        if sign in done.output:
            say.detail(f"{why}: there is nothing to collect.")
            return
    for line in done.lines[-12:]:
        say.detail(line)
    raise CannotBuild(
        "Collecting Django's static files failed; see above.",
        "The build knows the app's own settings only where they need no config of the app: give",
        f"such settings a default, or set {DISABLE}=1 to leave this step out.",
    )


def _has_django(venv: Layer) -> bool:
    import glob

    return bool(glob.glob(f"{venv.path}/lib/python*/site-packages/django/__init__.py"))
