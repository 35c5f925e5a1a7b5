from __future__ import annotations

import hashlib
import http.server
import re
import threading
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from emphasis.datasets import DamagedFileError, DownloadError
from emphasis.datasets import download as download_module
from emphasis.datasets.download import RemoteFile, download

CONTENT = bytes(i * 7919 % 251 for i in range(1_000_003))
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """A real server of one file that misbehaves as told; `asked` has each request's Range."""

    content: bytes = CONTENT
    ranges: bool = True  # whether Range is heeded
    cuts: list[int] = field(default_factory=list)  # bytes sent until the connection drops, request by request
    failures: list[int] = field(default_factory=list)  # statuses answered, request by request, before it works
    announce: bool = True  # whether Content-Length is sent
    shift: int = 0  # how far off the start of a range is
    asked: list[str | None] = field(default_factory=list)
    address: str = ""

    def file(self, digest=("md5", MD5), size=None):
        return RemoteFile(f"http://{self.address}/file.bin", "file.bin", digest, size)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = self.headers.get("Range")
            site.asked.append(asked)
            if site.failures:
                self.send_error(site.failures.pop(0))
                return
            start = 0
            if asked and site.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                if start >= len(site.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(site.content)}")
                    self.end_headers()
                    return
                start += site.shift
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            else:
                self.send_response(200)
            body = site.content[start:]
            if site.announce:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def files_of(folder):
    """The files of a folder but for the lock of downloads."""
    return [path for path in folder.iterdir() if path.name != ".downloads.lock"]


def fetch(site, folder, **options):
    return download(site.file(**options), folder, first_wait=0.0)


def test_a_download_arrives_whole_and_is_not_repeated(site, tmp_path):
    folder = tmp_path / "made" / "on demand"
    for _ in range(2):
        path = fetch(site, folder, digest=("sha256", hashlib.sha256(CONTENT).hexdigest()), size=len(CONTENT))
        assert path.read_bytes() == CONTENT
    assert site.asked == [None]
    assert files_of(folder) == [path]


def test_cut_connections_are_continued_where_they_stopped(site, tmp_path):
    site.cuts = [300_000, 1, 0, 200_000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-", "bytes=300001-", "bytes=300001-", "bytes=500001-"]


def test_what_an_earlier_call_got_is_continued(site, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:777])
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=777-"]


def test_a_server_that_ignores_range_is_read_from_the_start(site, tmp_path):
    site.ranges, site.cuts = False, [300_000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-"]


def test_a_server_that_sends_another_range_is_not_believed(site, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:777])
    site.shift = 5
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=777-", None]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_whole_part_is_only_checked(site, size, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(site, tmp_path, size=size).read_bytes() == CONTENT
    assert site.asked == ([f"bytes={len(CONTENT)}-"] if size is None else [])


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_part_that_is_too_long_is_started_afresh(site, size, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(site, tmp_path, size=size).read_bytes() == CONTENT
    assert site.asked[-1] is None


def test_wrong_content_is_deleted_and_the_next_call_starts_afresh(site, tmp_path):
    site.content = CONTENT[::-1]
    with pytest.raises(DamagedFileError, match=rf"not {MD5}.*deleted"):
        fetch(site, tmp_path)
    assert files_of(tmp_path) == []
    site.content = CONTENT
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_stale_part_of_another_file_is_found_out(site, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"?" * 777)
    with pytest.raises(DamagedFileError, match="deleted"):
        fetch(site, tmp_path)
    assert files_of(tmp_path) == []


def test_a_cut_that_no_length_gives_away_is_found_by_the_digest_or_the_size(site, tmp_path):
    site.announce, site.cuts = False, [300_000]
    assert fetch(site, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    (tmp_path / "file.bin").unlink()
    site.cuts = [300_000]
    with pytest.raises(DamagedFileError, match="deleted"):
        fetch(site, tmp_path)


def test_a_damaged_file_that_was_there_is_named_and_left_alone(site, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(DamagedFileError, match=r"file\.bin is damaged"):
        fetch(site, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"mine"
    assert site.asked == []


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(site, tmp_path):
    site.failures = [503, 429]
    assert fetch(site, tmp_path / "a").read_bytes() == CONTENT
    site.failures, site.asked = [404] * 3, []
    with pytest.raises(DownloadError, match=r"after 1 attempts .*404.*nothing was kept.*yourself"):
        fetch(site, tmp_path / "b")
    assert site.asked == [None]


def test_attempts_are_bounded_and_what_arrived_is_kept(site, tmp_path):
    site.cuts = [10] * 100
    with pytest.raises(DownloadError, match=r"after 6 attempts .*file\.bin\.part is kept"):
        fetch(site, tmp_path)
    assert len(site.asked) == 6
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:60]


def test_no_server_at_all_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = RemoteFile("http://127.0.0.1:9/file.bin", "file.bin", ("md5", MD5))
    with pytest.raises(DownloadError, match="after 2 attempts"):
        download(file, tmp_path, attempts=2, first_wait=0.0)


def test_progress_is_told_and_ends_at_the_whole(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_BLOCK", 100_000)
    told = []
    site.cuts = [250_000]
    download(site.file(), tmp_path, lambda *report: told.append(report), first_wait=0.0)
    assert all(what == "downloading file.bin" and total == len(CONTENT) for what, _, total in told)
    done = [done for _, done, _ in told]
    assert all(a < b for a, b in pairwise(done))
    assert done[-1] == len(CONTENT)


def test_several_at_once_share_one_download(site, tmp_path):
    threads = [threading.Thread(target=fetch, args=(site, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.asked == [None]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_is_there_needs_no_lock(site, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert fetch(site, tmp_path) == tmp_path / "file.bin"
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]
    assert site.asked == []
