"""Build a release, check it, and say what is left to a person.

    python -m research.release                                           # into dist/; `make release`
    python -m research.release --url https://github.com/NAME/contextcir  # links of the README lead there
    python -m research.release --tour_on python3.10 python3.13           # and take the tour on other Pythons

What is built comes from the files that git knows, never from others of the folder: a source archive, a wheel that is
built from that archive, `sbom.cdx.json` (the libraries that the tests ran with, in the form of CycloneDX),
`licences.md` (theirs) and `SHA256SUMS`. Nothing is uploaded.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.metadata import ExceptionGroup, InvalidMetadata, Metadata

ROOT = Path(__file__).parents[1]
TOPS = {"contextcir", "modeling_contextcir", "datasets_scripts"}  # of the wheel
MEGABYTES = {".whl": 20, ".gz": 25}  # sizes at most
JUNK = re.compile(r"(^|/)(runs|__pycache__|site|dist|\.venv|\.git|\.env|\.DS_Store)(/|$)|\.(pyc|pyo|log|orig|rej)$")
# Homes, but those of examples; and where this checkout is.
OF_A_MACHINE = re.compile(
    rb"/(?:root|Users|home)/(?!user\b|x\b|me\b|other\b)\w+|" + re.escape(os.fsencode(ROOT)) + rb"\b"
)
LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!https?:|mailto:|#)([^)\s]+)(?=\))")
EXTRAS = "serve,parse,demo"  # of the README's first block
STEPS = """
Left to you:
  1. Look at dist/licences.md and dist/sbom.cdx.json. With a network: pip-audit --requirement constraints.txt
  2. git tag --annotate v{version} --message "Version {version}" && git push origin v{version}
  3. Upload: twine upload dist/*.whl dist/*.tar.gz    (first to a test index: twine upload --repository testpypi ...)
  4. Attach SHA256SUMS, sbom.cdx.json and licences.md to the tag, with the part of CHANGELOG.md on {version}.
  5. Set the next version, with .dev0, in contextcir/__init__.py, and open a part "(unreleased)" in CHANGELOG.md.
"""


def export(folder: Path, url: str | None = None) -> Path:
    """
    Copy the files that git knows into a new folder.

    Args:
        folder (`Path`): A folder that does not exist.
        url (`str`, *optional*): Page of the repository. Relative links of the README, dead where a package index shows
            it, then lead to the tag of this version there, and the metadata name the page.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    if url:
        readme, project = folder / "README.md", folder / "pyproject.toml"
        readme.write_text(absolute(readme.read_text(encoding="utf-8"), url, version_of(folder)), encoding="utf-8")
        with project.open("a", encoding="utf-8") as file:
            file.write(f'\n[project.urls]\nHomepage = "{url}"\nChangelog = "{url}/blob/main/CHANGELOG.md"\n')
    return folder


def absolute(text: str, url: str, version: str) -> str:
    """
    Return a page of the repository with absolute links: of pictures to the file, of others to its page.

    >>> absolute("[a](docs/b.md#c) ![d](e.png) [f](#g)", "https://x.org/y", "1.0")
    '[a](https://x.org/y/blob/v1.0/docs/b.md#c) ![d](https://x.org/y/raw/v1.0/e.png) [f](#g)'
    """
    return LINK.sub(lambda link: f"{link[1]}{link[2]}{url}/{'raw' if link[1] else 'blob'}/v{version}/{link[3]}", text)


def version_of(folder: Path) -> str:
    """Return the version that the package of a checkout says."""
    (found,) = re.findall(r'^__version__ = "(.+)"$', (folder / "contextcir/__init__.py").read_text(), re.MULTILINE)
    return found


def build(source: Path, output: Path) -> tuple[Path, Path]:
    """
    Build the source archive of a folder, and a wheel from that archive.

    Returns:
        `tuple[Path, Path]`: The archive and the wheel.
    """
    _hatch(source, "sdist", output)
    (archive,) = output.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(archive) as members:
            members.extractall(unpacked, filter="data")
        _hatch(Path(unpacked, archive.name.removesuffix(".tar.gz")), "wheel", output)
    (wheel,) = output.glob("*.whl")
    return archive, wheel


def _hatch(source: Path, target: str, output: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(output.resolve())]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The {target} of {source} cannot be built:\n{done.stderr[-3000:]}")


def contents(path: Path) -> dict[str, bytes]:
    """Return the files of an archive or a wheel by their names, those of an archive without its folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(path) as archive:
        files = [member for member in archive.getmembers() if not member.isdir()]
        return {member.name.split("/", 1)[1]: _read(archive, member) for member in files}


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:  # a link
        raise SystemExit(f"{member.name} is no plain file.")
    return file.read()


def faults(archive: Path, wheel: Path, source: Path) -> list[str]:
    """Return what is wrong with an archive and a wheel that were built from a folder, a line each."""
    found = []
    for path in (archive, wheel):
        files, limit = contents(path), MEGABYTES[path.suffix]
        if path.stat().st_size > limit * 1e6:
            found.append(f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, more than {limit}.")
        found += [f"{path.name}: {name} does not belong there." for name in files if JUNK.search(name)]
        named = {name: OF_A_MACHINE.search(content) for name, content in files.items()}
        found += [f"{path.name}: {name} names {text[0].decode()}." for name, text in named.items() if text]
        found += [f"{path.name}: {fault}" for fault in _faults_of_metadata(files, source)]
    tops = {name.split("/")[0] for name in contents(wheel) if ".dist-info/" not in name}
    if tops != TOPS:
        found.append(f"{wheel.name} holds {sorted(tops)}, expected {sorted(TOPS)}.")
    return found


def _faults_of_metadata(files: dict[str, bytes], source: Path) -> list[str]:
    """Return what is wrong with the metadata and the licence of an archive or a wheel."""
    (name,) = (name for name in files if name == "PKG-INFO" or name.endswith(".dist-info/METADATA"))
    try:
        metadata = Metadata.from_email(files[name], validate=True)
    except (ExceptionGroup, InvalidMetadata) as error:
        return [f"{name}: {one}" for one in getattr(error, "exceptions", [error])]
    readme = (source / "README.md").read_text(encoding="utf-8")
    said = {
        "version": (str(metadata.version), version_of(source)),
        "description": ((metadata.description or "").strip(), readme.strip()),
        "type of the description": (metadata.description_content_type, "text/markdown"),
        "licence": (metadata.license_expression, "Apache-2.0"),
    }
    found = [
        f"{name}: the {what} is {str(is_)[:40]!r}, expected {str(to_be)[:40]!r}."
        for what, (is_, to_be) in said.items()
        if is_ != to_be
    ]
    if (source / "LICENSE").read_bytes() not in files.values():
        found.append("LICENSE is not in it.")
    return found


def unsettled(source: Path) -> list[str]:
    """Return which files of a folder do not say the version and the date of a release, a line each."""
    version = version_of(source)
    changelog, citation = ((source / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    (heading,) = re.findall(r"^## (.*)$", changelog, re.MULTILINE)[:1]
    date = re.search(rf"^{re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)$", heading)
    found = [f"contextcir/__init__.py: version {version} is in development."] if "dev" in version else []
    if not date:
        found.append(f"CHANGELOG.md begins with {heading!r}, expected '{version} (YEAR-MONTH-DAY)'.")
    expected = [f"version: {version}", f"date-released: {date[1]}" if date else "date-released: "]
    found += [f"CITATION.cff does not say {line!r}." for line in expected if f"\n{line}" not in citation]
    return found


def bill_of_materials(python: str, version: str, output: Path) -> list[dict[str, Any]]:
    """
    Write the libraries of an environment into `sbom.cdx.json`, and their licences into `licences.md`.

    Args:
        python (`str`): The interpreter of the environment.
        version (`str`): The version of this package.
        output (`Path`): Folder of both files.

    Returns:
        `list[dict]`: The components, as CycloneDX 1.6 describes them.
    """
    path = output / "sbom.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON", "-o", str(path), python]
    subprocess.run(command, check=True, capture_output=True)
    bill = json.loads(path.read_text(encoding="utf-8"))
    bill["metadata"]["component"]["version"] = version  # it is dynamic in pyproject.toml
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    lines = ["| library | version | licence, as it says |", "| --- | --- | --- |"]
    for one in sorted(bill["components"], key=lambda one: one["name"].lower()):
        lines.append(f"| {one['name']} | {one['version']} | {', '.join(licences_of(one)) or '**none said**'} |")
    (output / "licences.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return bill["components"]


def licences_of(component: dict[str, Any]) -> list[str]:
    """Return the licences of a component of CycloneDX, by the shortest name that it gives."""
    said = [one.get("license", one) for one in component.get("licenses", [])]
    names = [one.get("expression") or one.get("id") or one["name"] for one in said]
    return list(dict.fromkeys(name.splitlines()[0].removeprefix("License :: OSI Approved :: ") for name in names))


def sums(output: Path) -> None:
    """Write `SHA256SUMS` of all other files of a folder; `sha256sum --check SHA256SUMS` reads it."""
    paths = sorted(path for path in output.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (output / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def tour(python: str, wheel: Path) -> str:
    """
    Install a wheel with all that it requires into a new environment, and take the tour there.

    Args:
        python (`str`): An interpreter.
        wheel (`Path`): The wheel. The libraries come from the package index: gigabytes, where torch is one for GPUs.

    Returns:
        `str`: The version of Python, and how long it took.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="contextcir-release-") as folder:
        programs = Path(folder, "environment", "bin")
        subprocess.run([python, "-m", "venv", str(programs.parent)], check=True)
        install = [str(programs / "pip"), "install", "--quiet", "--no-cache-dir", f"{wheel.resolve()}[{EXTRAS}]"]
        subprocess.run(install, check=True)
        command = [str(programs / "contextcir"), "tour", "--serve", "false"]
        said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        version = subprocess.run([str(programs / "python"), "--version"], capture_output=True, text=True).stdout
    if said.count("right: ") != 3:
        raise SystemExit(f"The tour on {version.strip()} made no three searches:\n{said[-2000:]}")
    return f"{version.strip()}: installed, three searches, {time.perf_counter() - began:.0f} s"


def main(argv: Sequence[str]) -> None:
    """Build, check, and say what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder of the files; emptied first")
    parser.add_argument("--url", help="page of the repository, for the links of the README")
    parser.add_argument(
        "--tour_on", nargs="+", default=[], help="interpreters on which to install it and take the tour"
    )
    args = parser.parse_args(argv)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    found = unsettled(ROOT) + (["There are changes that are not committed."] if changed else [])
    if found:
        raise SystemExit("\n".join(["Not ready for a release:", *found]))
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    version = version_of(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        source = export(Path(folder, "source"), args.url and args.url.rstrip("/"))
        archive, wheel = build(source, args.output)
        if found := faults(archive, wheel, source):
            raise SystemExit("\n".join(found))
    print(f"{archive.name} and {wheel.name} are as they should be.", flush=True)
    for python in args.tour_on:
        print(tour(python, wheel), flush=True)
    components = bill_of_materials(sys.executable, version, args.output)
    unclear = [one["name"] for one in components if not licences_of(one)]
    print(f"{len(components)} libraries in sbom.cdx.json; no licence said by {', '.join(unclear) or 'none'}.")
    sums(args.output)
    if not args.url:
        print("Links and pictures of the README are relative, dead where a package index shows it: give --url.")
    print(STEPS.format(version=version))


if __name__ == "__main__":
    main(sys.argv[1:])
