from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from emphasis.datasets import DamagedFileError, UnsafeFileError, archives
from emphasis.datasets.archives import check_digest, read_members, read_npz

CONTENT = {"folder/a": b"alpha" * 1000, "folder/b": bytes(range(256)) * 50, "c": b""}


def archive(path, extra=(), mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in CONTENT.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_wanted_members_are_read_and_no_others(mode, tmp_path):
    path = archive(tmp_path / "a.tar", [member("folder", tarfile.DIRTYPE)], mode)
    assert dict(read_members(path, lambda name: True)) == CONTENT
    assert dict(read_members(path, lambda name: name.endswith("a"))) == {"folder/a": CONTENT["folder/a"]}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("../evil"), "leads out"),
        (member("folder/../../evil"), "leads out"),
        (member("..\\evil"), "leads out"),
        (member("/etc/evil"), "leads out"),
        (member("C:\\evil"), "leads out"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "link or device"),
        (member("link", tarfile.LNKTYPE, "folder/a"), "link or device"),
        (member("pipe", tarfile.FIFOTYPE), "link or device"),
        (member("device", tarfile.CHRTYPE), "link or device"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_member_that_leads_out_or_is_no_file_condemns_the_archive(bad, why, tmp_path):
    path = archive(tmp_path / "a.tar.gz", [bad])
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(UnsafeFileError, match=why):
        list(read_members(path, lambda name: name == "folder/a"))
    assert set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_compressed_archive_is_a_clear_error(share, tmp_path):
    whole = archive(tmp_path / "a.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedFileError, match="cut off or no tar archive"):
        list(read_members(cut, lambda name: True))


def test_a_truncated_plain_archive_is_a_clear_error(tmp_path):
    path = archive(tmp_path / "a.tar", mode="w")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DamagedFileError, match="cut off"):
        list(read_members(path, lambda name: True))


def test_what_is_no_archive_is_a_clear_error_and_an_absent_file_is_named(tmp_path):
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(DamagedFileError, match="no tar archive"):
        list(read_members(tmp_path / "page.tar.gz", lambda name: True))
    with pytest.raises(FileNotFoundError):
        list(read_members(tmp_path / "absent", lambda name: True))


def test_a_digest_that_differs_is_an_error_with_both_values(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    check_digest(path, ("md5", "900150983cd24fb0d6963f7d28e17f72"))
    check_digest(path, ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"))
    with pytest.raises(DamagedFileError, match="its md5 is 900150983cd24fb0d6963f7d28e17f72, not 0000"):
        check_digest(path, ("md5", "0000"))


def test_a_member_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path):
    huge = member("folder/a")
    huge.size = 1 << 40
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))  # `addfile` wants the content as well
    tracemalloc.start()
    with pytest.raises(UnsafeFileError, match="unpacks to more than 4,294,967,296 bytes"):
        list(read_members(path, lambda name: True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_chain_of_long_names_is_a_clear_error(tmp_path):
    link = tarfile.TarInfo("././@LongLink")
    link.type = tarfile.GNUTYPE_LONGNAME
    (tmp_path / "a.tar").write_bytes(link.tobuf(tarfile.GNU_FORMAT) * 5000)
    with pytest.raises(DamagedFileError, match="cut off or no tar archive"):
        list(read_members(tmp_path / "a.tar", lambda name: True))


@pytest.mark.parametrize("dtype", ["?", "u1", ">i4", "f2", "f8", "U3", "S5"])
@pytest.mark.parametrize("order", "CF")
def test_what_savez_writes_comes_back(dtype, order, tmp_path):
    values = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, dtype=dtype, order=order)
    np.savez_compressed(tmp_path / "a.npz", values=values, none=values[:0], number=values[0, 0, 1])
    found = read_npz(tmp_path / "a.npz")
    for name, expected in {"values": values, "none": values[:0], "number": values[0, 0, 1]}.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    assert found["values"].flags.writeable


def npy(header, content=b""):
    """A file of numpy's with a header of one's own."""
    header = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", b"x" * 80), "not as many bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}", b"x" * 80), "not as many bytes"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n."), "is of type object"),
        (npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", b"x" * 8), "is of type"),
        (b"no array", "magic"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused_before_memory_is_taken(content, match, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.npy", content)
    tracemalloc.start()
    with pytest.raises(DamagedFileError, match=rf"a\.npz is damaged \(.*{match}"):
        read_npz(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_an_archive_that_unpacks_to_more_than_any_data_set_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(100_000))
    monkeypatch.setattr(archives, "LARGEST", 1000)
    with pytest.raises(DamagedFileError, match="unpacks to more than 1,000 bytes"):
        read_npz(tmp_path / "a.npz", archives.LARGEST)
