"""Links in the documents lead to files and headings that exist. No network is used."""

import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *HOME.glob("*.md"),
        *HOME.glob("docs/**/*.md"),
        *HOME.glob("tests/*.md"),
        HOME / "submissions" / "README.md",
    ]
)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """Read a document without its code."""
    return CODE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Compute the anchors of a document's headings, as GitHub and myst-parser do."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    slugs: set[str] = set()
    for title in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = sum(1 for s in slugs if s == slug or re.fullmatch(re.escape(slug) + r"-\d+", s))
        slugs.add(f"{slug}-{count}" if count else slug)
    return slugs


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(HOME)))
def test_links_lead_somewhere(path):
    broken = []
    for link in LINK.findall(prose(path)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        missing = not target.exists() or HOME not in target.parents
        if missing or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert not broken


def test_headings_become_anchors(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("# The `run` command\n\n## Exit codes\n\n## Exit codes\n\n```\n# no\n```\n")
    assert anchors(path) == {"the-run-command", "exit-codes", "exit-codes-1"}


def test_the_readme_is_short():
    assert len((HOME / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_in_the_table_of_contents():
    text = (HOME / "docs" / "index.md").read_text(encoding="utf-8")
    listed = text.split("```{toctree}")[1].split()
    pages = {p.stem for p in HOME.glob("docs/*.md")} - {"index"}
    assert pages == {name for name in listed if name in pages}
