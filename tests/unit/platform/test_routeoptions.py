"""What may be set about an app's requests."""

import pytest

from shipway.platform.errors import InvalidInput
from shipway.platform.routeoptions import KEYS, changed, of, shown
from shipway.platform.router.routes import Options, login

GOOD = {
    "force-https": "on",
    "rate-limit": "10",
    "allow": "10.1.0.0/16, 2001:db8::/32 192.0.2.7",
    "basic-auth": "mary:long:enough john:12345678",
    "sticky-sessions": "on",
    "app-protocol": "h2c",
    "response-timeout": "120",
    "tunnel-timeout": "7200",
    "error-page": "https://example.com/oops.html?a=1&b='",
    "maintenance-page": "<h1>Back soon</h1>",
}


def test_all_of_them() -> None:
    """Each setting gets to the router; no password is kept; a page at an address is framed, and cannot break out."""
    assert GOOD.keys() == KEYS.keys()
    kept = changed("one", None, GOOD)
    found = of(kept)
    assert found.https
    assert found.sticky
    assert found.h2
    assert (found.rate, found.response_timeout, found.tunnel_timeout) == (10, 120, 7200)
    assert found.allow == ("10.1.0.0/16", "2001:db8::/32", "192.0.2.7/32")
    assert set(found.logins) == {
        login("one", "mary", "long:enough"),
        login("one", "john", "12345678"),
    }
    assert "long" not in str(kept)
    assert shown(kept)["basic-auth"] == "john mary"
    assert '<iframe src="https://example.com/oops.html?a=1&amp;b=&#x27;"' in found.error_page
    assert found.maintenance_page == "<h1>Back soon</h1>"
    assert changed("one", kept, dict.fromkeys(KEYS, "")) == {}
    assert changed("one", kept, {"force-https": "off"}).keys() == KEYS.keys() - {"force-https"}
    assert of(None) == Options()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nope", "1"),
        ("maintenance", "on"),
        ("force-https", "yes"),
        ("rate-limit", "0"),
        ("rate-limit", "nan"),
        ("rate-limit", "inf"),
        ("rate-limit", "many"),
        ("allow", "10.0.0.1/8"),
        ("allow", "example.com"),
        ("allow", " ".join(f"10.0.0.{n}" for n in range(101))),
        ("basic-auth", "mary"),
        ("basic-auth", "mary:short"),
        ("basic-auth", ":12345678"),
        ("basic-auth", "ma;ry:12345678"),
        ("app-protocol", "h3"),
        ("response-timeout", "0.5"),
        ("tunnel-timeout", "-1"),
        ("error-page", "javascript:alert(1)"),
        ("error-page", "https://"),
        ("error-page", "file:///etc/passwd"),
        ("error-page", 'https://a.example/\n"x'),
        ("error-page", "words"),
        ("error-page", "<p>\0"),
        ("maintenance-page", "<" + "ä" * 3072),
    ],
)
def test_what_is_refused(key: str, value: str) -> None:
    """Anything else is refused by name, and a password that was refused is not repeated."""
    with pytest.raises(InvalidInput, match=key) as caught:
        changed("one", None, {key: value})
    if key == "basic-auth":
        assert value not in caught.value.message
