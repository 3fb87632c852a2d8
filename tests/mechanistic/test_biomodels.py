"""What a repository on this machine answers, and what becomes of it: no test here leaves the machine."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mechanistic import biomodels, library, write_sbml
from mechanistic.biomodels import Repository
from mechanistic.errors import DownloadError

ID = "BIOMD0000000012"
MODEL = library.lotka_volterra()
SBML = write_sbml(MODEL).encode()
LISTING = {"main": [{"name": "Lotka 1925 & more.xml", "fileSize": str(len(SBML))}], "additional": []}


@dataclass
class Server:
    """Answers in place of BioModels; a test changes what it says."""

    listing: bytes = json.dumps(LISTING).encode()
    body: bytes = SBML
    status: int = 200
    location: str = ""
    pause: float = 0.0
    header_pause: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    paths: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.paths[parts.path] += 1
        listed = "/model/files/" in parts.path
        self.names += parse_qs(parts.query).get("filename", [])
        content = self.listing if listed else self.body
        status = 200 if listed else self.status
        for _ in range(20 if self.header_pause else 0):
            handler.wfile.write(b"H")
            time.sleep(self.header_pause)
        handler.send_response(status)
        if status in (301, 302, 307):
            handler.send_header("Location", self.location)
        for name, value in ({"Content-Length": str(len(content))} | ({} if listed else self.headers)).items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        for start in range(0, len(content), max(1, len(content) // 8)) if self.pause and not listed else ():
            handler.wfile.write(content[start : start + max(1, len(content) // 8)])
            handler.wfile.flush()
            time.sleep(self.pause)
        if listed or not self.pause:
            handler.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("KINETWIN_CACHE", str(tmp_path / "cache"))
    # A proxy of the environment must not be asked for this machine.
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")
    known = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                known.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    known.url = f"http://127.0.0.1:{listening.server_address[1]}/biomodels"
    yield known
    listening.shutdown()
    listening.server_close()
    thread.join()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DownloadError) as caught:
        call()
    return str(caught.value)


def test_the_model_of_an_id_is_read(server):
    assert biomodels.read(ID, Repository(server.url)) == MODEL


def test_the_file_is_the_main_sbml_file_of_the_listing(server):
    others = [{"name": "figure.png"}, {"name": "curation.xml"}]
    server.listing = json.dumps({"main": LISTING["main"], "additional": others}).encode()
    biomodels.fetch(ID, Repository(server.url))
    assert server.names == ["Lotka 1925 & more.xml"]


def test_an_archive_with_one_sbml_file_beside_it(server):
    server.listing = json.dumps({"main": [{"name": "all.omex"}], "additional": [{"name": "model.sbml"}]}).encode()
    biomodels.fetch(ID, Repository(server.url))
    assert server.names == ["model.sbml"]


def test_of_several_files_the_one_with_the_name_of_the_model(server):
    server.listing = json.dumps({"main": [{"name": f"{ID}_url.xml"}, {"name": "plot.xml"}]}).encode()
    biomodels.fetch(ID, Repository(server.url))
    assert server.names == [f"{ID}_url.xml"]


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        ({"main": [{"name": "all.omex"}]}, r"no SBML file (main files: `all.omex`)"),
        ({"main": [{"name": "a.xml"}, {"name": "b.xml"}]}, "several SBML files: `a.xml`, `b.xml`"),
        ({"main": [{"name": "../../etc/passwd.xml"}]}, "no SBML file"),
        ({"main": [{"name": "a\ud800.xml"}]}, "no SBML file"),
        ({}, "no SBML file (main files: none)"),
        ({"main": [{}]}, "not what it should be"),
        ([], "not what it should be"),
    ],
)
def test_listings_without_one_sbml_file_are_refused(server, listing, reason):
    server.listing = json.dumps(listing).encode()
    assert reason in refused(lambda: biomodels.fetch(ID, Repository(server.url)))
    assert not server.names


def test_a_listing_nested_without_end_is_refused(server):
    server.listing = b"[" * 200_000
    assert "not what it should be" in refused(lambda: biomodels.fetch(ID, Repository(server.url)))


def test_the_second_time_needs_no_network(server):
    path = biomodels.fetch(ID, Repository(server.url))
    asked = server.paths.total()
    assert biomodels.fetch(ID, Repository(server.url)) == path
    assert server.paths.total() == asked == 2


def test_the_checksum_beside_the_file_is_that_of_the_file(server):
    path = biomodels.fetch(ID, Repository(server.url))
    line = path.with_name(path.name + ".sha256").read_text("ascii")
    assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.mark.parametrize("what", ["file", "checksum", "checksum gone"])
def test_a_corrupt_copy_is_fetched_again(server, what):
    path = biomodels.fetch(ID, Repository(server.url))
    beside = path.with_name(path.name + ".sha256")
    if what == "file":
        path.write_bytes(SBML.replace(b"predator", b"predator2", 1))
    elif what == "checksum":
        beside.write_text("0" * 64)
    else:
        beside.unlink()
    biomodels.fetch(ID, Repository(server.url))
    assert path.read_bytes() == SBML
    assert server.paths.total() == 4


def test_a_corrupt_copy_is_refused_where_it_cannot_be_fetched_again(server):
    path = biomodels.fetch(ID, Repository(server.url))
    path.write_bytes(b"<sbml/>")
    server.status = 500
    said = refused(lambda: biomodels.fetch(ID, Repository(server.url)))
    assert "status 500" in said
    assert "does not match its checksum" in said


def test_no_one_listens(server):
    # Port 9 of this machine: `discard`, which nothing serves.
    repository = Repository("http://127.0.0.1:9")
    assert "127.0.0.1:9 cannot be reached" in refused(lambda: biomodels.fetch(ID, repository))


def test_an_unknown_id(server):
    server.status = 404
    assert f"no model `{ID}`" in refused(lambda: biomodels.fetch(ID, Repository(server.url)))


@pytest.mark.parametrize("announced", [True, False])
def test_files_above_the_limit_are_refused(server, announced):
    if not announced:
        server.headers = {"Content-Length": ""}
    limit = len(SBML) - 1
    said = refused(lambda: biomodels.fetch(ID, Repository(server.url, limit=limit)))
    assert f"larger than {limit} bytes" in said
    assert biomodels.fetch(ID, Repository(server.url, limit=len(SBML))).read_bytes() == SBML


def test_a_server_that_trickles_is_left_after_the_timeout(server):
    server.pause = 0.2
    begun = time.monotonic()
    assert "did not answer within 0.3 s" in refused(lambda: biomodels.fetch(ID, Repository(server.url, timeout=0.3)))
    assert time.monotonic() - begun < 2.0


def test_a_server_that_falls_silent_is_left_after_the_timeout(server):
    server.pause = 1.5
    assert "did not answer within 0.2 s" in refused(lambda: biomodels.fetch(ID, Repository(server.url, timeout=0.2)))


def test_headers_that_trickle_end_with_the_timeout(server):
    server.header_pause = 0.1
    begun = time.monotonic()
    assert "did not answer within 0.4 s" in refused(lambda: biomodels.fetch(ID, Repository(server.url, timeout=0.4)))
    assert time.monotonic() - begun < 2.0


def test_an_answer_cut_short_is_refused(server):
    server.headers = {"Content-Length": str(len(SBML) + 7)}
    assert f"ended after {len(SBML)} of {len(SBML) + 7} bytes" in refused(
        lambda: biomodels.fetch(ID, Repository(server.url))
    )


def test_a_compressed_answer_is_refused(server):
    server.headers = {"Content-Encoding": "gzip"}
    assert "compressed" in refused(lambda: biomodels.fetch(ID, Repository(server.url)))


@pytest.mark.parametrize(
    "location",
    [
        "http://example.org/model.xml",
        "ftp://example.org/model.xml",
        "file:///etc/passwd",
        "data:text/xml,<sbml/>",
        "//",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirects_that_leave_https_are_refused(server, location, status):
    server.status, server.location = status, location
    assert "not https" in refused(lambda: biomodels.fetch(ID, Repository(server.url)))


def test_redirects_in_a_circle_end(server):
    server.status = 302
    server.location = f"{server.url}/model/download/{ID}"
    assert "too often" in refused(lambda: biomodels.fetch(ID, Repository(server.url)))
    assert server.paths.total() < 10


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html><body>Sorry</body></html>", "<html>"),
        (b"<!DOCTYPE html><html><br></html>", "document type"),
        (b'<!DOCTYPE sbml [<!ENTITY a "b">]><sbml>&a;</sbml>', "document type"),
        (SBML[:-30], "line"),
        (b"PK\x03\x04 a zip archive", "line 1"),
        (b"", "line 1"),
    ],
    ids=["html", "doctype", "entity", "cut", "zip", "empty"],
)
def test_what_is_not_sbml_is_refused_and_not_kept(server, tmp_path, body, reason):
    server.body = body
    said = refused(lambda: biomodels.fetch(ID, Repository(server.url)))
    assert "is not SBML" in said
    assert reason in said
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_fetching_at_the_same_time_gives_one_whole_file(server):
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: biomodels.fetch(ID, Repository(server.url)), range(16)))
    assert len(paths) == 1
    path = paths.pop()
    assert path.read_bytes() == SBML
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.mark.parametrize(
    "identity",
    [
        "", "BIOMD12", "../../etc/passwd", f"{ID}/../x", f"{ID}\n", f"{ID}?x=1", f" {ID}", "biomd0000000012",
        "BIOMD٠٠٠٠٠٠٠٠١٢", "https://example.org", f"{ID}.xml", "MODEL12345678901", 12, None, Path(ID),
    ],
)  # fmt: skip
def test_what_is_no_id_reaches_neither_network_nor_disk(server, tmp_path, identity):
    assert "is not a BioModels id" in refused(lambda: biomodels.fetch(identity, Repository(server.url)))
    assert not server.paths
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://www.ebi.ac.uk/biomodels", "http://127.0.0.1.example.org", "http://10.0.0.1", "file:///etc", "ftp://a.b",
        "https://", "www.ebi.ac.uk", "https://me:secret@example.org", "http://[::1", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_safe_are_refused(url):
    assert "https://" in refused(lambda: Repository(url))


@pytest.mark.parametrize("url", ["http://localhost:80", "http://[::1]:80", "http://127.0.0.1", "https://example.org/a"])
def test_addresses_that_are_safe_are_taken(url):
    assert Repository(url).url == url


def test_limits_are_positive():
    said = refused(lambda: Repository(timeout=0, limit=-1))
    assert "`timeout` is 0" in said
    assert "`limit` is -1" in said


def test_a_cache_that_cannot_be_written_says_so(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KINETWIN_CACHE", str(tmp_path / "file"))
    assert "set `KINETWIN_CACHE`" in refused(lambda: biomodels.fetch(ID, Repository(server.url)))


def test_the_cache_follows_the_folders_of_the_user(server, tmp_path, monkeypatch):
    monkeypatch.delenv("KINETWIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert (tmp_path / "xdg" / "kinetwin") in biomodels.fetch(ID, Repository(server.url)).parents
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert (tmp_path / "home" / ".cache" / "kinetwin") in biomodels.fetch(ID, Repository(server.url)).parents


def test_a_large_file_shows_its_progress(server, capsys):
    server.body = SBML + b" " * biomodels._LARGE
    biomodels.fetch(ID, Repository(server.url))
    assert ID in capsys.readouterr().err
