"""The dashboard in a real browser, on a seeded store; a stand-in for the host starts and stops what is scaled."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from dashboard import PASSWORD, Dashboard, dashboard
from shipway.platform.models import Build
from shipway.platform.states import BuildState

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = [
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "\x1b]0;owned\x07 title",
    "\x1b[2J\x1b[H clear",
    "\x1b[31mred\x1b[0m plain",
    "\u202egnp.exe",
]


@pytest.fixture(scope="module")
def board() -> Iterator[Dashboard]:
    """A dashboard with a live app, its host and its web process."""
    with dashboard() as found:
        found.app("hello", config={"SECRET": "s3cret-value"})
        found.release("hello", quantities={"web": 1, "worker": 1}, age=500)
        found.release("hello", age=100)
        found.log("hello", "web.1", 1, "Listening on 5000")
        found.app("blank")
        with found.host(), found.web():
            yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def state(board: Dashboard, browser: Browser) -> Any:
    """The cookies of somebody who is signed in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(board.url)
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Apps", exact=True)).to_be_visible()
    found = context.storage_state()
    context.close()
    return found


@pytest.fixture
def context(browser: Browser, state: Any) -> Iterator[BrowserContext]:
    """A signed-in browser of its own; no page in it may have complained."""
    found = browser.new_context(storage_state=state)
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and "status of 4" not in message.text:
            complaints.append(message.text)

    found.on("console", heard)
    found.on("weberror", lambda error: complaints.append(str(error.error)))
    yield found
    found.close()
    assert complaints == []  # a breach of the content security policy is one


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A page of it."""
    return context.new_page()


def scale(page: Page, kind: str = "web") -> Any:
    return page.get_by_label(f"Number of {kind} instances")


def lines(page: Page) -> Any:
    return page.locator("[data-lines] .line .text")


def live(page: Page) -> None:
    expect(page.locator("[data-live-state]")).to_have_text("live")


def test_a_wrong_password_is_told_and_the_name_is_kept(board: Dashboard, browser: Browser) -> None:
    """A wrong password leaves one at the form, with the name still there."""
    page = browser.new_page()
    page.goto(board.url)
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    expect(page.get_by_label("User name")).to_have_value("admin")
    page.close()


def test_the_list_leads_to_an_app(board: Dashboard, page: Page) -> None:
    """The list shows each app's state, release, URL and instances, and leads to its page."""
    page.goto(board.url)
    row = page.locator(".app-row", has=page.get_by_role("link", name="hello", exact=True))
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("v2")
    expect(row.get_by_role("img", name="2 of 2 instances up")).to_be_visible()
    row.get_by_role("heading").click()
    expect(page.get_by_role("heading", name="hello", exact=True)).to_be_visible()


def test_an_app_is_made_and_says_how_to_push(
    board: Dashboard, page: Page, context: BrowserContext
) -> None:
    """A new app's page shows the commands to push to it, and copies them."""
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(board.url)
    page.get_by_label("New app").fill("Bad Name")
    page.get_by_role("button", name="Create").click()
    assert page.url == f"{board.url}/"  # the browser itself refuses the name
    page.get_by_label("New app").fill("shiny")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Ship the first version")).to_be_visible()
    page.get_by_role("button", name="Copy the command for SSH").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"git remote add shipway ssh://git@127\.0\.0\.1:\d+/shiny", copied)


def test_scaling_with_plus_minus_and_a_number(board: Dashboard, page: Page) -> None:
    """Plus, minus and a typed number scale at once, without a new page; instances come and go as they do."""
    page.goto(f"{board.url}/apps/hello")
    live(page)
    page.evaluate("window.samePage = true")
    page.get_by_role("button", name="One web instance more").click()
    expect(scale(page)).to_have_value("2")
    expect(page.locator(".instances li", has_text="web.2")).to_contain_text("up")
    expect(page.locator("[data-process=web] .count")).to_contain_text("2/2 up")
    scale(page).fill("4")
    page.keyboard.press("Enter")
    expect(page.locator("[data-process=web] .instances li")).to_have_count(4)
    expect(page.locator("[data-process=web] .count")).to_contain_text("4/4 up")
    expect(lines(page).filter(has_text="Scaled to web@4 by user admin")).to_be_visible()
    page.get_by_role("button", name="One web instance fewer").click()
    expect(page.locator("[data-process=web] .instances li")).to_have_count(3)
    scale(page).fill("1")
    page.get_by_role("button", name="Set").click()
    expect(page.locator("[data-process=web] .instances li")).to_have_count(1)
    assert page.evaluate("window.samePage")


def test_quick_presses_all_count(board: Dashboard, page: Page) -> None:
    """However fast one presses plus and minus, what was pressed is what one gets."""
    page.goto(f"{board.url}/apps/hello")
    live(page)
    before = int(scale(page).input_value())
    for name, times in (("more", 5), ("fewer", 2), ("more", 1)):
        for _ in range(times):
            page.get_by_role("button", name=f"One web instance {name}").click(delay=5)
    expect(page.locator("[data-process=web] .instances li")).to_have_count(before + 4)
    expect(scale(page)).to_have_value(str(before + 4))
    for _ in range(4):
        page.get_by_role("button", name="One web instance fewer").press("Enter")
    expect(page.locator("[data-process=web] .instances li")).to_have_count(before)


def test_a_part_that_just_came_in_answers_at_once(board: Dashboard, page: Page) -> None:
    """A form sent the moment its part of the page was replaced works as ever, without a new page."""
    page.goto(f"{board.url}/apps/hello")
    live(page)
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.evaluate(
            """() => {
                window.samePage = true;
                const send = () => document.querySelector("#set-form-web").requestSubmit();
                document.addEventListener("htmx:afterSwap", () => queueMicrotask(send), {once: true});
                htmx.trigger(document.body, "changed");
            }"""
        )
    assert answer.value.request.headers["hx-request"] == "true"
    assert page.evaluate("window.samePage")


def test_what_one_types_is_not_taken_away(board: Dashboard, page: Page) -> None:
    """A number that is being typed stays while the page is brought up to date around it."""
    page.goto(f"{board.url}/apps/hello")
    live(page)
    scale(page).fill("7")
    with page.expect_response(re.compile("/apps/hello/live")):
        build = board.build("hello")
    page.wait_for_timeout(200)
    expect(scale(page)).to_have_value("7")
    expect(page.get_by_role("button", name="Set")).to_be_visible()
    end_build(board, build)


def test_what_one_types_replaces_a_selected_number(board: Dashboard, page: Page) -> None:
    """A selected number is selected still when its part of the page was replaced: what one types then stands alone."""
    page.goto(f"{board.url}/apps/hello")
    live(page)
    scale(page).select_text()
    page.evaluate(
        """() => new Promise((settled) => {
            document.addEventListener("htmx:afterSettle", () => setTimeout(settled), {once: true});
            htmx.trigger(document.body, "changed");
        })"""
    )
    page.keyboard.type("7")
    expect(scale(page)).to_have_value("7")


def test_a_number_that_cannot_be_is_refused_in_words(board: Dashboard, page: Page) -> None:
    """What the server refuses is said on the page, which stays."""
    page.goto(f"{board.url}/apps/hello")
    page.evaluate("for (const form of document.forms) form.noValidate = true")
    scale(page).fill("500")
    page.keyboard.press("Enter")
    expect(page.locator(".notice.error")).to_contain_text("use 0 to 100")


def test_scaling_works_without_scripts(board: Dashboard, browser: Browser, state: Any) -> None:
    """Without JavaScript the same form scales, by a new page."""
    context = browser.new_context(storage_state=state, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{board.url}/apps/hello")
    scale(page, "worker").fill("2")
    page.locator("[data-process=worker]").get_by_role("button", name="Set").click()
    expect(scale(page, "worker")).to_have_value("2")
    page.get_by_role("button", name="One worker instance fewer").click()
    expect(scale(page, "worker")).to_have_value("1")
    expect(lines(page).filter(has_text="Listening on 5000")).to_be_visible()
    context.close()


def test_the_log_is_live_filtered_and_follows_its_end(board: Dashboard, page: Page) -> None:
    """New lines appear as they are written, the end is followed until one scrolls up, and a process can be chosen."""
    page.goto(f"{board.url}/apps/hello/log")
    live(page)
    start = time.monotonic()
    board.log("hello", "web.1", 1, "fresh from the instance")
    expect(lines(page).last).to_have_text("fresh from the instance")
    assert time.monotonic() - start < 3
    board.log("hello", "web.1", 1, *(f"line {number}" for number in range(100)))
    expect(lines(page).last).to_have_text("line 99")
    expect(lines(page).last).to_be_in_viewport()
    page.locator("[data-lines]").hover()
    page.mouse.wheel(0, -600)
    newest = page.locator("[data-newest]")
    expect(newest).to_be_visible()
    board.log("hello", "web.1", 1, "while reading")
    expect(newest).to_have_text("↓ 1 new")
    expect(lines(page).last).not_to_be_in_viewport()
    newest.click()
    expect(lines(page).last).to_be_in_viewport()
    expect(newest).to_be_hidden()
    board.log("hello", "worker.1", 2, "from the worker")
    expect(lines(page).last).to_have_text("from the worker")
    page.get_by_label("Show").select_option("web")
    page.wait_for_url("**/log?process=web")
    live(page)
    expect(lines(page).filter(has_text="while reading")).to_be_visible()
    expect(lines(page).filter(has_text="from the worker")).to_have_count(0)


def test_the_log_resumes_where_it_was(
    board: Dashboard, page: Page, context: BrowserContext
) -> None:
    """After a broken connection the log goes on without a gap and without a line twice."""
    page.goto(f"{board.url}/apps/hello/log")
    live(page)
    board.log("hello", "web.1", 1, "before the break")
    expect(lines(page).last).to_have_text("before the break")
    context.set_offline(True)
    page.evaluate(
        "dispatchEvent(new Event('pagehide'))"
    )  # the connection is closed, as on a laptop's lid
    board.log("hello", "web.1", 1, "during the break")
    context.set_offline(False)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    board.log("hello", "web.1", 1, "after the break")
    expect(lines(page).last).to_have_text("after the break")
    for text in ("before the break", "during the break", "after the break"):
        expect(lines(page).get_by_text(text)).to_have_count(1)


def test_hostile_lines_are_text(board: Dashboard, page: Page) -> None:
    """Markup and escape sequences in a log are shown as text or colour, live and after a reload, and never run."""
    page.goto(f"{board.url}/apps/hello/log")
    live(page)
    board.log("hello", "web.1", 1, *HOSTILE)
    for _ in range(2):
        expect(lines(page).filter(has_text="<script>window.hacked = 1</script><img")).to_have_count(
            1
        )
        expect(lines(page).filter(has_text="^[]0;owned^G title")).to_have_count(1)
        expect(lines(page).filter(has_text="^[[2J^[[H clear")).to_have_count(1)
        expect(lines(page).filter(has_text="<U+202E>gnp.exe")).to_have_count(1)
        expect(page.locator("[data-lines] .fg-1", has_text=re.compile("^red$"))).to_have_count(1)
        assert page.locator("[data-lines] script, [data-lines] img").count() == 0
        assert page.evaluate("window.hacked") is None
        assert "owned" not in page.title()
        page.reload()
        live(page)


def test_the_browser_holds_the_policy(board: Dashboard, browser: Browser) -> None:
    """A page of ours cannot be made to show another site, nor to run what was put into it."""
    page = browser.new_page()
    page.goto(board.url)
    refused = page.evaluate(
        """() => new Promise((done) => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => {
                found.push(event.effectiveDirective);
                if (found.length === 2) done(found.sort());
            });
            const frame = document.createElement("iframe");
            frame.src = "https://elsewhere.example/";
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(frame, script);
        })"""
    )
    assert refused == ["frame-src", "script-src-elem"]
    assert page.evaluate("window.hacked") is None
    page.close()


def test_a_build_is_watched_to_its_end(board: Dashboard, page: Page) -> None:
    """A running build's page shows its output as it comes, and its end."""
    number = board.build("hello")
    board.say(number, "-----> Building on the Debian 13 stack\n")
    page.goto(f"{board.url}/apps/hello")
    expect(page.get_by_role("status").filter(has_text="Building c0ffee1")).to_be_visible()
    page.get_by_role("link", name="c0ffee1").first.click()
    expect(lines(page).last).to_have_text("-----> Building on the Debian 13 stack")
    live(page)
    board.say(number, "       \x1b[32mdone\x1b[0m\n")
    expect(page.locator("[data-lines] .fg-2")).to_have_text("done")
    end_build(board, number)
    expect(page.locator("[data-live-state]")).to_have_text("ended")
    expect(page.locator(".badge").first).to_have_text("build failed")


def test_destroying_asks_for_the_name(board: Dashboard, page: Page) -> None:
    """The button is dead until the app's name is typed."""
    board.app("doomed")
    page.goto(f"{board.url}/apps/doomed/settings")
    button = page.get_by_role("button", name="Destroy doomed")
    expect(button).to_be_disabled()
    page.get_by_label("Type doomed to confirm").fill("doomed")
    button.click()
    expect(page.get_by_role("status").filter(has_text="doomed is being destroyed.")).to_be_visible()
    expect(page.get_by_role("link", name="doomed")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways(
    board: Dashboard, browser: Browser, state: Any, width: int, scheme: Any
) -> None:
    """From a small phone to a desktop, in both modes, no page is wider than the screen."""
    context = browser.new_context(
        storage_state=state, viewport={"width": width, "height": 740}, color_scheme=scheme
    )
    page = context.new_page()
    paths = ["", "/activity", "/log", "/config?reveal=1", "/settings"]
    for path in [
        "/",
        "/account",
        "/nope",
        "/apps/blank",
        *(f"/apps/hello{path}" for path in paths),
    ]:
        page.goto(board.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    context.close()


def test_the_keyboard_reaches_everything(board: Dashboard, page: Page) -> None:
    """The first stop of the Tab key leads to the content, and every field and button has a name."""
    page.goto(f"{board.url}/apps/hello")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([type=hidden]), select, textarea, a")]
            .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []


def end_build(board: Dashboard, number: int) -> None:
    """Have a build fail."""
    with board.store.transaction() as db:
        db.get_one(Build, number).state = BuildState.FAILED
    board.say(number, " !     Ended.\n")
