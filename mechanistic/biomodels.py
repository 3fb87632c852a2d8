"""Models of the BioModels repository by their id, kept on disk and checked against their checksum when read.

Malik-Sheriff et al. 2020, Nucleic Acids Res 48:D407, doi:10.1093/nar/gkz1055. What a server answers is foreign data:
bounded in size and time, taken over HTTPS only, and kept only when it is SBML.
"""

import hashlib
import http.client
import ipaddress
import json
import os
import re
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlencode, urlsplit
from xml.parsers import expat

from tqdm import tqdm

from mechanistic.errors import DownloadError
from mechanistic.folders import cache_folder
from mechanistic.model import KineticModel
from mechanistic.sbml import read_sbml

_ID: Final = re.compile(r"(BIOMD|MODEL)[0-9]{10}")
_FILE: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff/\\]{1,250}\.(xml|sbml)", re.IGNORECASE)
_PIECE: Final = 65_536
_LISTING_LIMIT: Final = 1_000_000
_LARGE: Final = 2_000_000
_REDIRECTS: Final = 5


def _is_safe(url: str) -> bool:
    """Whether an address is HTTPS, or HTTP on this machine; none that carries a name and password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
@dataclass(frozen=True, slots=True)
class Repository:
    """Where models come from, and how much of time and space an answer may take.

    Attributes:
        url: address under which the web services stand; plain `http` only on this machine (loopback).
        timeout: longest time for one request, in seconds.
        limit: largest file that is taken, in bytes.

    Raises:
        DownloadError: for an address that is not HTTPS, or a limit that is not positive.
    """

    url: str = "https://www.ebi.ac.uk/biomodels"
    timeout: float = 60.0
    limit: int = 50_000_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))
        problems = [] if _is_safe(self.url) else [f"`url` is {self.url!r}; give an address that begins with https://"]
        problems += [
            f"`{name}` is {getattr(self, name)!r}; give a positive number"
            for name in ("timeout", "limit")
            if not 0 < getattr(self, name) < float("inf")
        ]
        if problems:
            raise DownloadError("the repository cannot be used:", problems)


BIOMODELS: Final = Repository()
"""The public repository at the European Bioinformatics Institute."""


def read(identity: str, repository: Repository = BIOMODELS) -> KineticModel:
    """The model with a BioModels id such as `BIOMD0000000012`.

    Args:
        identity: `BIOMD` or `MODEL` and ten digits.
        repository: where to fetch it from when it is not in the cache.

    Raises:
        DownloadError: as `fetch`.
        InvalidSBML, UnsupportedSBML: as `read_sbml`.
    """
    return read_sbml(fetch(identity, repository))


def fetch(identity: str, repository: Repository = BIOMODELS) -> Path:
    """The path of the SBML file of a model; fetched once, then taken from the cache without any network.

    The cache is the folder in the environment variable `KINETWIN_CACHE`, otherwise `kinetwin` in the user's cache
    folder (`XDG_CACHE_HOME`, `~/.cache`). A file whose SHA-256 is not the one beside it is fetched again.

    Args:
        identity: `BIOMD` or `MODEL` and ten digits.
        repository: where to fetch it from when it is not in the cache.

    Raises:
        DownloadError: for what is no id (nothing is sent then), an id that the repository does not have, a repository
            that cannot be reached or does not answer in time, an answer that is too large or is not SBML, and a cache
            that cannot be written.
    """
    if not isinstance(identity, str) or _ID.fullmatch(identity) is None:
        problem = "an id is `BIOMD` or `MODEL` and ten digits, for instance `BIOMD0000000012`"
        raise DownloadError(f"{str(identity)[:40]!r} is not a BioModels id:", [problem])
    entry = _Entry(_folder(repository), identity)
    if entry.is_sound():
        return entry.path
    try:
        data = _downloaded(identity, repository)
    except DownloadError as error:
        if entry.path.exists():
            corrupt = f"the copy at {entry.path} does not match its checksum, and is not used"
            raise DownloadError(f"`{identity}` could not be fetched:", [*error.problems, corrupt]) from error
        raise
    try:
        entry.write(data)
    except OSError as error:
        problem = f"the cache cannot be written: {error}; set `KINETWIN_CACHE` to a folder of your own"
        raise DownloadError(f"`{identity}` could not be kept:", [problem]) from None
    return entry.path


@final
@dataclass(frozen=True, slots=True)
class _Entry:
    """A file in the cache and, beside it, its checksum in the form of `sha256sum`."""

    folder: Path
    identity: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.identity}.xml"

    @property
    def checksum(self) -> Path:
        return self.folder / f"{self.identity}.xml.sha256"

    def is_sound(self) -> bool:
        """Whether the file is there and is the one that was written."""
        try:
            with self.checksum.open("rb") as file:
                noted = file.read(64)
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return False
        return noted == found.encode()

    def write(self, data: bytes) -> None:
        """Puts both files in place, each at once, so that no other process ever sees half of one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = f"{hashlib.sha256(data).hexdigest()}  {self.path.name}\n"
        for path, content in ((self.path, data), (self.checksum, line.encode())):
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=f".{path.name}.", delete=False) as file:
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, path)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise


def _folder(repository: Repository) -> Path:
    """The folder of the cache for one repository."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(repository.url).netloc)
    return cache_folder() / "biomodels" / host


def _downloaded(identity: str, repository: Repository) -> bytes:
    """The SBML file of a model, from the network."""
    request = _Request(identity, repository)
    listing = request.get(f"model/files/{identity}", {"format": "json"}, _LISTING_LIMIT)
    name = _main_file(identity, listing)
    data = request.get(f"model/download/{identity}", {"filename": name}, repository.limit)
    problem = _not_sbml(data)
    if problem:
        raise DownloadError(f"`{identity}` could not be fetched:", [f"the file `{name}` is not SBML: {problem}"])
    return data


def _main_file(identity: str, listing: bytes) -> str:
    """The name of the SBML file among the files of a model."""
    headline = f"`{identity}` could not be fetched:"
    try:
        answer = json.loads(listing)
        names = {kind: [str(file["name"]) for file in answer.get(kind) or ()] for kind in ("main", "additional")}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DownloadError(headline, ["the repository's list of files is not what it should be"]) from None
    for candidates in names.values():
        found = [name for name in candidates if _FILE.fullmatch(name)]
        usual = [name for name in found if name.startswith(identity)]
        chosen = found if len(found) == 1 else usual
        if len(chosen) == 1:
            return chosen[0]
        if found:
            listed = ", ".join(f"`{name[:80]}`" for name in found[:10])
            raise DownloadError(headline, [f"it has several SBML files: {listed}; download one and use `read_sbml`"])
    listed = ", ".join(f"`{name[:80]}`" for name in names["main"][:10]) or "none"
    raise DownloadError(headline, [f"it has no SBML file (main files: {listed})"])


def _not_sbml(data: bytes) -> str:
    """What keeps `data` from being an SBML document, or an empty string; no more than the root element is looked at."""
    roots: list[str] = []

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda name, _: roots.append(name.rpartition(" ")[2]) if not roots else None
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        if not roots or roots[0] == "sbml":
            return f"line {error.lineno}: {expat.ErrorString(error.code)}"
    except ValueError as error:
        return str(error)
    return "" if roots[:1] == ["sbml"] else f"its root element is <{roots[0][:40]}>"


@final
@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of a repository on behalf of one model; every failure becomes a sentence."""

    identity: str
    repository: Repository

    def get(self, place: str, query: dict[str, str], limit: int) -> bytes:
        """The body of an answer of at most `limit` bytes."""
        url = f"{self.repository.url}/{place}?{urlencode(query)}"
        headers = {"Accept-Encoding": "identity", "User-Agent": "kinetwin"}
        request = urllib.request.Request(url, headers=headers)
        deadline = time.monotonic() + self.repository.timeout

        def answer() -> bytes:
            with closing(_opener(self.repository.url).open(request, timeout=self.repository.timeout)) as response:
                return b"".join(self._pieces(response, limit, deadline))

        try:
            return _within(self.repository.timeout, answer)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._failure(self._status(error)) from None
        except urllib.error.URLError as error:
            raise self._failure(self._unreachable(error.reason)) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(self._unreachable(error)) from None

    def _pieces(self, response: Any, limit: int, deadline: float) -> Iterator[bytes]:
        announced = response.headers.get("Content-Length", "")
        size = int(announced) if re.fullmatch(r"[0-9]{1,18}", announced) else None
        if size is not None and size > limit:
            raise self._failure(f"the answer is larger than {limit} bytes ({size}); raise `Repository.limit`")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._failure("the answer is compressed, which was not asked for")
        taken = 0
        hidden = size is None or size < _LARGE
        with tqdm(total=size, disable=hidden, unit="B", unit_scale=True, desc=self.identity, leave=False) as bar:
            while piece := response.read1(_PIECE):
                taken += len(piece)
                bar.update(len(piece))
                if taken > limit:
                    raise self._failure(f"the answer is larger than {limit} bytes; raise `Repository.limit`")
                if time.monotonic() > deadline:
                    raise TimeoutError
                yield piece
        if size is not None and taken < size:
            raise self._failure(f"the answer ended after {taken} of {size} bytes; try again")

    def _failure(self, problem: str) -> DownloadError:
        return DownloadError(f"`{self.identity}` could not be fetched:", [problem])

    def _status(self, error: urllib.error.HTTPError) -> str:
        host = urlsplit(self.repository.url).netloc
        if error.code == 404:
            return f"{host} has no model `{self.identity}`"
        if 300 <= error.code < 400:
            return f"{host} sends elsewhere too often, or to an address that is not https"
        return f"{host} answers with status {error.code}"

    def _unreachable(self, reason: Any) -> str:
        host = urlsplit(self.repository.url).netloc
        if isinstance(reason, TimeoutError):
            return (
                f"{host} did not answer within {self.repository.timeout:g} s; try again or raise `Repository.timeout`"
            )
        if isinstance(reason, ssl.SSLError):
            return f"no safe connection to {host}: {reason}"
        return f"{host} cannot be reached: {reason}; connect to the network, or read a file with `read_sbml`"


def _within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """What `call` returns, or a TimeoutError: looking up a name and reading headers know no time limit of their own."""
    outcome: list[bytes | BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    # A daemon: one that hangs must not keep the interpreter from ending.
    worker = threading.Thread(target=run, name="kinetwin-download", daemon=True)
    worker.start()
    worker.join(seconds)
    if not outcome:
        raise TimeoutError
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _opener(url: str) -> urllib.request.OpenerDirector:
    """HTTPS with checked certificates; plain HTTP, and then without a proxy, for this machine only."""
    opener = urllib.request.OpenerDirector()
    local = urlsplit(url).scheme == "http"
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler({} if local else None),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SafeRedirects(),
    ]
    if local:
        handlers.append(urllib.request.HTTPHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


@final
class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and never one that leaves HTTPS."""

    max_redirections = _REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        here = urlsplit(req.full_url).scheme
        if not _is_safe(newurl) or (here == "https" and urlsplit(newurl).scheme != "https"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return urllib.request.HTTPRedirectHandler.redirect_request(self, req, fp, code, msg, headers, newurl)
