# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the sources of the documentation into a folder: what people wrote, and the reference out of the code.

usage: pages.py FOLDER
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import reference

ROOT = reference.ROOT
# Pages from elsewhere than docs/, and their names among the pages.
OTHERS = {
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/README.md": "benchmarks.md",
    "molecule/README.md": "molecule.md",
    "roles/testbed/README.md": "testbed.md",
}
# Pages of Ansible's own documentation that the reference of modules links to.
ANSIBLE = {
    "action_plugins": ("Action plugins", "plugins/action.html"),
    "common_return_values": ("Return values", "reference_appendices/common_return_values.html"),
    "ansible_configuration_settings": ("Configuration settings", "reference_appendices/config.html"),
}


def main(folder: Path) -> None:
    """Write all sources."""
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    unlisted = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT / "docs")
        write(folder / name, relinked(path.read_text("utf-8"), f"docs/{name}"))
        page = name.with_suffix("").as_posix()
        if page != "index" and not re.search(rf"^{re.escape(page)}$", index, re.MULTILINE):
            unlisted.append(page)
    if unlisted:  # no page is lost because nobody put it into a table of contents
        more = "\n".join(unlisted)
        table = f"\n```{{toctree}}\n:hidden:\n:caption: More\n{more}\n```\n"
        write(folder / "index.md", relinked(index, "docs/index.md") + table)
    for source, name in OTHERS.items():
        write(folder / name, relinked((ROOT / source).read_text("utf-8"), source))
    write(folder / "reference" / "cli.md", CLI)
    write(folder / "reference" / "config.md", config_page())
    write(folder / "reference" / "settings.md", settings_page())
    write(folder / "reference" / "variables.md", variables_page())
    write(folder / "reference" / "ansible.rst", ansible_page())


def write(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def relinked(text: str, source: str) -> str:
    """Let links between files of the repository lead to their pages.

    Args:
        text: The file.
        source: Its path in the repository.
    """
    here = Path(source).parent
    depth = len(Path(source).relative_to("docs").parts) - 1 if source.startswith("docs/") else 0

    def page(found: re.Match[str]) -> str:
        target = (ROOT / here / found[1]).resolve().relative_to(ROOT).as_posix()
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target in OTHERS:
            target = OTHERS[target]
        else:
            raise SystemExit(f"pages: {source} links to {found[1]}, which is no page")
        return f"]({'../' * depth}{target}{found[2] or ''})"

    return re.sub(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)", page, text)


CLI = """# The command fractal-slurm

Each command has `--help`. [Exit codes](../codes.md#exit-codes-of-fractal-slurm) are the same for all of them.

```{eval-rst}
.. click:: fractal_slurm.cli:cli
   :prog: fractal-slurm
   :nested: full
```
"""


def config_page() -> str:
    """The keys of the config file."""
    document = reference.examples()["config"]
    return f"""# The config file

`FRACTAL_SLURM_CONFIG_FILE` is JSON; the role takes YAML, too. `fractal-slurm validate` checks a file, and
`fractal-slurm schema` prints its JSON Schema. Unknown keys are faults. The whole of it:

```yaml
{"".join(f"{name}: {reference.inline(value)}" + chr(10) for name, value in document.items())}```

## Sections

{definitions(reference.config_sections())}
## Options of a task

`default_slurm_config` holds these for all tasks. `gpu_slurm_config` replaces those that it names for tasks with
`needs_gpu`. `task.meta` and the `meta` of a WorkflowTask go before both; `fractal-slurm explain` shows which counts.

{definitions(reference.config_options())}
## Batching

[Glossary](../glossary.md): a *target* may be exceeded, a *maximum* never.

{definitions(reference.batching_keys())}"""


def settings_page() -> str:
    """Our own settings."""
    entries = reference.settings()
    parts = [
        f"## {entry.name}\n\n{entry.text}\n\nDefault: `{entry.default}`. Example:\n\n"
        f"```toml\n{entry.name} = {reference.toml(entry.example)}\n```\n"
        for entry in entries
    ]
    return f"""# Settings of the runtime

They are in `/etc/fractal/fractal-slurm.toml`, or in the file that `FRACTAL_SLURM_SETTINGS_FILE` names. The role
`runtime` writes that file from `fractal_slurm_runtime_settings`. The environment goes before the file:
`FRACTAL_SLURM_MAX_RETRIES=1` sets `max_retries`. Unknown names are faults.

{chr(10).join(parts)}"""


def variables_page() -> str:
    """The variables of roles and playbooks."""
    parts = [
        "# Variables of roles and playbooks\n\n"
        "All names begin with `fractal_slurm_`. `fractal.slurm.validate` checks them without a host, and finds names "
        "that are misspelt. `ansible-doc -t role -e main fractal.slurm.ROLE` prints those of one role; without "
        "`-e main` it prints them three times, once for each entry point.\n"
    ]
    parts.append(f"## Playbooks\n\n{definitions(reference.playbook_variables())}")
    for role, entries in reference.roles().items():
        parts.append(f"## Role {role}\n\n{definitions(entries)}")
    return "\n".join(parts)


def definitions(entries: Iterable[reference.Entry]) -> str:
    """Entries as a list of terms, each with its description, its default and an example."""
    parts = []
    for entry in entries:
        facts = [entry.kind] if entry.kind else []
        if entry.default == "needed":
            facts.append("needed")
        elif entry.default:
            facts.append(f"default `{entry.default}`")
        head = f" *({', '.join(facts)})*" if facts else ""
        text = entry.text if entry.text.endswith((".", ")")) else f"{entry.text}."
        parts.append(f"`{entry.name}`{head}\n: {text}\n")
        if entry.example not in (None, "", [], {}):
            parts.append(f"  ```yaml\n  {entry.name}: {reference.inline(entry.example)}\n  ```\n")
    return "\n".join(parts)


def ansible_page() -> str:
    """Labels of Ansible's own documentation, each with the address of its page."""
    head = ":orphan:\n\nAnsible's own documentation\n===========================\n"
    return head + "".join(
        f"\n.. _{label}:\n\n{title}\n{'-' * len(title)}\n\n"
        f"See `{title} <https://docs.ansible.com/ansible/latest/{address}>`__.\n"
        for label, (title, address) in ANSIBLE.items()
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
