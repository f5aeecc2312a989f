"""Finding pictures in folders, lists and archives, none of which is trusted."""

from __future__ import annotations

import io
import os
import signal
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nasty import encoded, make_nasty, photo

from gentrain.data.reading import archives, entries
from gentrain.data.reading.decode import decode
from gentrain.data.reading.listing import Bad, Listing, list_pictures
from gentrain.errors import UserError

PICTURE = encoded(photo(), "PNG")


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A read that waits for ever ends as a failure."""

    def give_up(_signal: int, _frame: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def names(listing: Listing) -> list[str]:
    return [entry.name for entry in listing.entries]


def reasons(listing: Listing) -> dict[str, str]:
    return {bad.name: bad.reason for bad in listing.bad}


def contents(listing: Listing) -> dict[str, bytes | str]:
    with ThreadPoolExecutor(4) as pool:
        jobs = [(entry.name, pool.submit(read)) for entry, read in listing.contents()]
        results = {name: job.result() for name, job in jobs}
    assert sorted(results) == names(listing)
    return {name: data.reason if isinstance(data, Bad) else data for name, data in results.items()}


def write_files(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PICTURE)


# ---- folders


def test_every_kind_of_nasty_file(tmp_path: Path) -> None:
    root = tmp_path / "nasty"
    expected = make_nasty(root)
    assert len(expected) > 60
    before = time.perf_counter()
    listing = list_pictures(root)
    assert time.perf_counter() - before < 1
    assert names(listing) == sorted(names(listing))
    outcome = reasons(listing)
    for entry, read in listing.contents():
        before = time.perf_counter()
        data = read()
        result = data.reason if isinstance(data, Bad) else decode(data, 16, 3)
        assert time.perf_counter() - before < 1, entry.name
        assert entry.name not in outcome
        outcome[entry.name] = "ok" if isinstance(result, np.ndarray) else result
    assert outcome.keys() == expected.keys()
    for name, reason in expected.items():
        assert name.isprintable()
        assert reason in outcome[name], name


def test_a_folder(tmp_path: Path) -> None:
    write_files(
        tmp_path, "b.png", "sub/deep/a.JPG", ".hidden.png", ".cache/x.png", "__MACOSX/y.png", "._b.png"
    )
    write_files(tmp_path, "notes.txt", "more.txt", "README")
    (tmp_path / "again").symlink_to(tmp_path / "sub")
    (tmp_path / "LICENSE").symlink_to("/etc/hostname" if Path("/etc/hostname").is_file() else "README")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "sub" / "cached").symlink_to("../.cache")
    listing = list_pictures(tmp_path)
    assert names(listing) == ["b.png", "sub/deep/a.JPG"]
    assert listing.ignored == {".txt": 2, "hidden": 4, "links to folders": 1, "no suffix": 2}
    assert reasons(listing) == {
        "sub/up": "a link to a folder that holds it",
        "sub/cached": "a link to a hidden folder, which is not read",
    }
    assert (listing.entries[0].size, listing.entries[0].labels) == (len(PICTURE), ())
    assert listing.entries[0].stamp == (tmp_path / "b.png").stat().st_mtime_ns
    assert set(contents(listing).values()) == {PICTURE}


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    write_files(tmp_path, "real/a.png")
    (tmp_path / "link").symlink_to("real")
    assert contents(list_pictures(tmp_path / "link")) == {"a.png": PICTURE}


def test_a_file_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    write_files(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    listing = list_pictures(tmp_path)
    (tmp_path / "a.png").write_bytes(PICTURE + b"more")
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").unlink()
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "d.png").unlink()
    (tmp_path / "d.png").symlink_to("e.png")
    found = contents(listing)
    assert found.pop("e.png") == PICTURE
    assert found == {
        "a.png": "changed since it was listed",
        "b.png": "cannot be read: no such file or directory",
        "c.png": "a named pipe, not a regular file",
        "d.png": "cannot be read: too many levels of symbolic links",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    write_files(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "sub").chmod(0)
    assert reasons(list_pictures(tmp_path)) == {"sub/": "a folder that cannot be read: permission denied"}
    (tmp_path / "sub").chmod(0o700)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, r"cannot be opened \(no such file or directory\); give a folder"),
        (lambda path: path.mkdir(), r"holds no pictures; looked for \.bmp .*in it and below$"),
        (lambda path: write_files(path, "a.txt", "b.txt"), r"holds no pictures.*, found 2 \.txt"),
        (lambda path: path.write_bytes(PICTURE), "no folder, list or archive"),
        (os.mkfifo, "neither a folder nor a regular file"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
    ],
)
def test_what_is_no_place_of_pictures(tmp_path: Path, make: Callable[[Path], object], sentence: str) -> None:
    make(tmp_path / "place")
    with pytest.raises(UserError, match=sentence):
        list_pictures(tmp_path / "place")


def test_names_that_cannot_be_opened() -> None:
    with pytest.raises(UserError, match="not a path"):
        list_pictures(Path("a\0b"))


# ---- lists


def list_of(root: Path, text: str, name: str = "list.csv") -> Listing:
    (root / name).write_text(text, encoding="utf-8")
    return list_pictures(root / name)


def labels(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.labels for entry in listing.entries}


def test_a_list_with_and_without_a_header(tmp_path: Path) -> None:
    write_files(tmp_path, "a.png", "sub/b,c.png")
    expected = {"a.png": ("cat", "1"), "sub/b,c.png": ("dog", "2")}
    plain = list_of(tmp_path, 'a.png,cat,1\n"sub/b,c.png",dog,2\n\n')
    assert plain.label_names == ("label", "label2")
    assert labels(plain) == expected
    headed = list_of(tmp_path, '\ufeffkind,File,number\r\ncat,./a.png,1\r\ndog,"sub/b,c.png",2\r\n')
    assert headed.label_names == ("kind", "number")
    assert labels(headed) == expected
    tabbed = list_of(tmp_path, "a.png\tcat\t1\nsub/b,c.png\tdog\t2\n", "list.tsv")
    assert labels(tabbed) == expected
    assert contents(tabbed) == dict.fromkeys(expected, PICTURE)
    assert labels(list_of(tmp_path, "a.png\n")) == {"a.png": ()}


def test_columns_of_many_values_are_no_labels(tmp_path: Path) -> None:
    files = [f"{number}.png" for number in range(1001)]
    write_files(tmp_path, *files)
    rows = "".join(f"{number},{file},caption {number},{number % 2}\n" for number, file in enumerate(files))
    listing = list_of(tmp_path, f",path,caption,odd\n{rows}")
    assert listing.label_names == ("odd",)
    assert {entry.labels for entry in listing.entries} == {("0",), ("1",)}


def test_what_a_list_may_not_name(tmp_path: Path) -> None:
    write_files(tmp_path, "in/a.png", "in/b.png", "in/c.png", "out/x.png")
    (tmp_path / "in" / "link.png").symlink_to("a.png")
    (tmp_path / "in" / "away").symlink_to("../out")
    (tmp_path / "in" / "away.png").symlink_to("../out/x.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    rows = [
        "a.png,1",
        "b.png,1",
        "./b.png,1",
        "c.png,1",
        "c.png,2",
        "link.png,1",
        "missing.png,1",
        "../out/x.png,1",
    ]
    rows += [
        f"{tmp_path}/in/a.png,1",
        f"{tmp_path}/out/x.png,1",
        "C:\\a.png,1",
        "away/x.png,1",
        "away.png,1",
        "pipe.png,1",
        ".,1",
        " ,1",
    ]
    listing = list_of(tmp_path / "in", "\n".join(rows))
    assert names(listing) == ["a.png", "b.png", "c.png", "link.png"]
    found = reasons(listing)
    assert found.pop(f"{tmp_path}/in/a.png") == "listed twice"
    assert found.pop(f"{tmp_path}/out/x.png") == "an absolute path out of the list's folder"
    assert found == {
        "./b.png": "listed twice",
        "c.png": "listed twice, with other labels",
        "missing.png": "no such file or directory",
        "../out/x.png": "a path with ..",
        "C:\\\\a.png": "an absolute path out of the list's folder",
        "away/x.png": "a link out of the folder",
        "away.png": "a link out of the folder",
        "pipe.png": "a named pipe, not a regular file",
        ".": "a folder, not a regular file",
        " ": "no path",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"file,label\n", "names no picture"),
        (b"a.png,1\nb.png\n", "line 2 of .* has 1 columns and the first line 2"),
        (b"a.png,\xe9\n", "is not UTF-8 text"),
        (b'a.png,"open\n', "line 1 of .* cannot be read"),
        (b"file,kind,kind\na.png,1,2\n", "two columns of the same name"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: bytes, sentence: str) -> None:
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(UserError, match=sentence):
        list_pictures(tmp_path / "list.csv")


# ---- zip archives


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip(tmp_path: Path) -> None:
    members = {
        "b.png": PICTURE,
        "sub/a.JPG": PICTURE[::-1],
        "notes.txt": b"",
        "__MACOSX/._b.png": b"",
        "x/": b"",
    }
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        listing = list_pictures(zip_of(tmp_path / "x.zip", members, method))
        assert listing.ignored == {".txt": 1, "hidden": 1}
        assert not listing.bad
        assert contents(listing) == {"b.png": PICTURE, "sub/a.JPG": PICTURE[::-1]}
        assert contents(listing) == contents(listing)


def test_many_threads_read_a_zip(tmp_path: Path) -> None:
    members = {f"{number}.png": np.random.default_rng(number).bytes(5000) for number in range(300)}
    assert contents(list_pictures(zip_of(tmp_path / "x.zip", members))) == members


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_a_zip_may_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("good.png", "../up.png", "/abs.png", "a/../../b.png", "..\\win.png", "C:\\win.png"):
            archive.writestr(name, PICTURE)
        archive.writestr("twice.png", PICTURE)
        archive.writestr("twice.png", PICTURE[::-1])
        for name, mode in {"link.png": 0o120777, "pipe.png": 0o010666, "regular.png": 0o100644}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, PICTURE)
        archive.writestr("large.png", bytes(100_001))
        archive.writestr("bzip2.png", PICTURE, zipfile.ZIP_BZIP2)
    listing = list_pictures(path)
    assert contents(listing) == dict.fromkeys(["good.png", "regular.png", "twice.png"], PICTURE)
    assert reasons(listing) == {
        "../up.png": "a path with ..",
        "/abs.png": "an absolute path",
        "a/../../b.png": "a path with ..",
        "../win.png": "a path with ..",
        "C:/win.png": "an absolute path",
        "twice.png": "in the archive twice",
        "link.png": "a link, not a regular file",
        "pipe.png": "a named pipe, not a regular file",
        "large.png": entries.TOO_LARGE,
        "bzip2.png": "compressed with bzip2 that is not read here",
    }


def test_zip_members_that_lie(tmp_path: Path) -> None:
    members = {
        "bomb.png": bytes(50_000_000),
        "good.png": PICTURE,
        "locked.png": PICTURE,
        "wrong.png": PICTURE,
    }
    path = zip_of(tmp_path / "x.zip", members | {"moved.png": PICTURE})
    with zipfile.ZipFile(path) as archive:
        start, offsets = archive.start_dir, {info.filename: info.header_offset for info in archive.infolist()}
    data = bytearray(path.read_bytes())

    def directory_of(name: str) -> int:
        return data.index(name.encode(), start) - 46

    struct.pack_into("<I", data, directory_of("bomb.png") + 24, 1000)  # the declared size
    data[directory_of("locked.png") + 8] |= 1  # the flag of encryption
    data[offsets["wrong.png"] + 30 + len("wrong.png") + 300] ^= 255
    struct.pack_into("<I", data, directory_of("moved.png") + 42, 7)  # the place
    path.write_bytes(data)
    listing = list_pictures(path)
    assert reasons(listing) == {"locked.png": "encrypted"}
    found = contents(listing)
    assert found["good.png"] == PICTURE
    assert found["bomb.png"] == "more data than it declares"
    assert "damaged in the archive" in str(found["wrong.png"])
    assert found["moved.png"] == "not where the archive says that it is"


def test_damaged_zips(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {"a.png": PICTURE})
    data = path.read_bytes()
    for part in (b"", b"no archive", data[:-10], data[: len(data) // 2]):
        path.write_bytes(part)
        with pytest.raises(UserError, match="is no zip archive, or damaged"):
            list_pictures(path)


def test_an_archive_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    for path in (
        zip_of(tmp_path / "x.zip", {"a.png": PICTURE}),
        tar_of(tmp_path / "x.tar", {"a.png": PICTURE}),
    ):
        listing = list_pictures(path)
        with path.open("ab") as file:
            file.write(bytes(512))
        with pytest.raises(UserError, match="changed after it was listed"):
            next(listing.contents())


# ---- tar archives

SUFFIXES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w", **changed: object) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1000
            for key, value in changed.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_tar(tmp_path: Path, suffix: str) -> None:
    members = {"./b.png": PICTURE, "sub/a.JPG": PICTURE[::-1], "notes.txt": bytes(3000), "./._b.png": b""}
    members["long/" * 50 + "ünï.png"] = b"512 bytes" * 100
    listing = list_pictures(tar_of(tmp_path / f"x{suffix}", members, SUFFIXES[suffix]))
    assert listing.ignored == {".txt": 1, "hidden": 1}
    expected = {name.removeprefix("./"): data for name, data in members.items() if "_b" not in name}
    del expected["notes.txt"]
    assert contents(listing) == expected
    assert {entry.stamp for entry in listing.entries} == {10**12}


def test_a_tar_without_times_has_that_of_the_archive(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", {"a.png": PICTURE}, mtime=0)
    assert list_pictures(path).entries[0].stamp == path.stat().st_mtime_ns


def test_what_a_tar_may_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    path = tmp_path / "x.tar"
    tar_of(path, {"good.png": PICTURE, "../up.png": PICTURE, "/abs.png": PICTURE, "twice.png": PICTURE})
    tar_of(path, {"large.png": bytes(100_001), "twice.png": PICTURE[::-1], "late.png": PICTURE}, "a")
    for name, kind in {
        "link.png": tarfile.SYMTYPE,
        "hard.png": tarfile.LNKTYPE,
        "char.png": tarfile.CHRTYPE,
        "block.png": tarfile.BLKTYPE,
        "pipe.png": tarfile.FIFOTYPE,
    }.items():
        tar_of(path, {name: b""}, "a", type=kind, linkname="/etc/passwd")
    listing = list_pictures(path)
    assert contents(listing) == dict.fromkeys(["good.png", "late.png", "twice.png"], PICTURE)
    assert reasons(listing) == {
        "../up.png": "a path with ..",
        "/abs.png": "an absolute path",
        "twice.png": "in the archive twice",
        "large.png": entries.TOO_LARGE,
        "link.png": "a link, not a regular file",
        "hard.png": "a link, not a regular file",
        "char.png": "a device, not a regular file",
        "block.png": "a device, not a regular file",
        "pipe.png": "a named pipe, not a regular file",
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tar_of(tmp_path / f"x{suffix}", {f"{n}.png": PICTURE for n in range(3)}, SUFFIXES[suffix])
    data = path.read_bytes()
    end = len(data)
    if suffix == ".tar":
        end = 3 * (512 + -(-len(PICTURE) // 512) * 512)  # where zeros begin
    for cut in (0, 1, 300, 512, 1000, end // 2, end - 600, end - 512, end - 5, end - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"is damaged or cut off after [0-3] pictures"):
            list_pictures(path)


def test_damaged_tars(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", {f"{n}.png": PICTURE for n in range(3)})
    whole = path.read_bytes()
    second = 512 + -(-len(PICTURE) // 512) * 512
    negative = bytearray(whole)
    negative[second + 124 : second + 136] = b"\xff" * 12  # a size of -1 in base 256
    negative[second + 148 : second + 156] = b" " * 8
    negative[second + 148 : second + 156] = b"%06o\0 " % sum(negative[second : second + 512])
    damaged_header = bytearray(whole)
    damaged_header[second + 3] ^= 1
    huge_name = io.BytesIO()
    with tarfile.open(fileobj=huge_name, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * 3_000_000 + ".png"))
    for data in (negative, damaged_header, huge_name.getvalue(), PICTURE, b"\x1f\x8bno gzip"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"is damaged or cut off"):
            list_pictures(path)


def test_a_wrong_checksum_at_the_end_of_a_gzip_is_seen(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar.gz", {"a.png": PICTURE}, "w:gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="CRC check failed"):
        list_pictures(path)


def test_chance_damage_to_archives_never_escapes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    members = {f"{number}.png": b"picture" * 9 for number in range(4)} | {"é" * 90 + ".png": b"x"}
    made = [zip_of(tmp_path / "x.zip", members), tar_of(tmp_path / "x.tar", members)]
    made.append(tar_of(tmp_path / "x.tgz", members, "w:gz"))
    for path in made:
        whole = path.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(random.integers(1, 6)):
                data[random.integers(len(data))] = random.integers(256)
            path.write_bytes(data)
            try:
                contents(list_pictures(path))
            except UserError as error:
                assert str(path) in str(error)
