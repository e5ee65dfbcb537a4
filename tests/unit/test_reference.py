"""The generated documentation, against what it is generated from."""

import importlib.util
import re
from pathlib import Path

import pytest

import cnm_core

ROOT = Path(cnm_core.__file__).parent.parent
_spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
assert _spec is not None and _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


def test_up_to_date() -> None:
    """The pages that are checked in are what `make docs` writes."""
    found = {path.name: path.read_text() for path in generate.TARGET.iterdir()}
    assert found == generate.pages(), "run make docs"


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")) + sorted(ROOT.glob("*.md")))
def test_links(page: Path) -> None:
    """Links within the repository lead somewhere."""
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
