"""The manifest of a checkpoint: what it consists of, and what wrote it."""
import hashlib
import json
import os
import stat

from omegaconf import OmegaConf

import projects.MAE
from projects.MAE.checkpoint.reader import check_part
from projects.MAE.errors import UserError
from projects.MAE.runtime.versions import versions
from projects.MAE.utils.disk import read_error
from projects.MAE.utils.untrusted_file import open_regular, parse_json, read_text

# Inside the part "model", as the card: LiBai reads every entry of a checkpoint folder as a part.
MANIFEST = os.path.join("model", "manifest.json")
FORMAT = 1
CHUNK = 1 << 22
LARGEST = 1 << 23  # bytes of a manifest; ViT-Huge's is half a megabyte


def describe(files, run, classes, iteration):
    """The content of a manifest.

    Args:
        files: {path inside the checkpoint: {"bytes": size, "sha256": hexadecimal}}.
        run: the `Run`, with its schedule.
        classes: names of the classes, in the order of their labels.
        iteration: optimizer steps done.
    """
    seen, samples_in_epoch = iteration * run.batch.total, run.schedule.samples
    configuration = OmegaConf.to_container(run.cfg, resolve=True)
    return {
        "format": FORMAT,
        "position": {
            "iteration": iteration,
            "epoch": seen // samples_in_epoch,
            "samples_of_epoch": seen % samples_in_epoch,
            "samples_seen": seen,
        },
        "versions": versions(projects.MAE.__version__),
        "classes": list(classes),
        "configuration": json.loads(json.dumps(configuration, default=_name)),
        "files": files,
    }


def _name(value):
    """The name of a class or function; of other objects, that of their class."""
    kind = value if isinstance(value, type) or callable(value) else type(value)
    kind = kind if hasattr(kind, "__qualname__") else type(kind)
    return f"{kind.__module__}.{kind.__qualname__}"


def read_manifest(checkpoint):
    """The manifest of a checkpoint folder, None where it has none (LiBai's own, say).

    Raises:
        UserError: it is damaged.
        Unreadable: the system does not read it now.
    """
    path = os.path.join(checkpoint, MANIFEST)
    try:
        manifest = parse_json(read_text(path, LARGEST))
        for entry in manifest["files"].values():
            if not (isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)):
                raise ValueError("no sizes and checksums of files")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise read_error(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"damaged ({_short(error)})", path=path) from None
    return manifest


def _short(error):
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__


def check_whole(checkpoint, under=""):
    """Compare the size and SHA-256 of every file of a checkpoint, or of its part `under`, with the
    manifest's. Without a manifest every part must be readable, every tensor of the size it says.

    Raises:
        UserError: it is damaged; names the file.
        Unreadable: the system does not read a file now; it may be whole.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None:
        try:
            parts = [under] if under else sorted(os.listdir(checkpoint))
        except OSError as error:
            raise read_error(checkpoint, error) from None
        if not under and "model" not in parts:
            raise UserError("it holds no model", path=checkpoint)
        for part in parts:
            check_part(os.path.join(checkpoint, part))
        return
    chosen = [p for p in manifest["files"] if p.startswith(f"{under}/" if under else "")]
    if os.path.join("model", "pickled_data") not in manifest["files"]:
        raise UserError("damaged (it lists no model)", path=os.path.join(checkpoint, MANIFEST))
    # Sizes first: they cost nothing and show most damage.
    for path in chosen:
        _check_size(checkpoint, path, manifest["files"][path]["bytes"])
    for path in chosen:
        if sha256_of(os.path.join(checkpoint, path)) != manifest["files"][path]["sha256"]:
            raise UserError("damaged, its checksum is another", path=os.path.join(checkpoint, path))


def fingerprint(checkpoint):
    """A short text that tells a checkpoint from others, by its manifest or else the pickle of its
    model; "nothing" where there is none."""
    for path in (MANIFEST, os.path.join("model", "pickled_data")):
        if os.path.exists(os.path.join(checkpoint, path)):
            return sha256_of(os.path.join(checkpoint, path))[:12]
    return "nothing"


def _check_size(checkpoint, path, expected):
    full = os.path.join(checkpoint, path)
    if os.path.isabs(path) or ".." in path.split("/") or "\0" in path:
        raise UserError(f"its manifest names a file outside it ({path!r})", path=checkpoint)
    try:
        found = os.stat(full)
    except OSError as error:
        raise read_error(full, error) from None
    except ValueError:  # half a character of UTF-16, which JSON can write and no file is named by
        raise UserError(f"its manifest names a file that can't be ({path!r})", path=checkpoint) from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError("no file of a checkpoint", path=full)
    if found.st_size != expected:
        raise UserError(f"{found.st_size} bytes, written were {expected}", path=full)


def sha256_of(path):
    """The SHA-256 of a file, hexadecimal; errors are those of `read_error`."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            for chunk in iter(lambda: file.read(CHUNK), b""):
                digest.update(chunk)
    except OSError as error:
        raise read_error(path, error) from None
    return digest.hexdigest()
