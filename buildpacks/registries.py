"""Where packages of a kind come from unless somebody says otherwise: what the package-URL specification names."""

import urllib.parse

from packageurl.contrib import purl2url


def npm() -> str:
    """The address of npm's public registry."""
    url: str = purl2url.get_download_url("pkg:npm/node@1.0.0")  # type: ignore[no-untyped-call]
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
