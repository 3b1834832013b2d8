"""Cleaned, and loaded again by the library whose format it is: what works with which version, as markdown.

    python benchmarks/round_trips.py --recbole ENV/bin/python --lenskit ... --rectools ... --replay ...

Each option names the Python of an environment that has the library; those of RecTools and RePlay need llm4dsr-cli, too,
since a frame is cleaned and handed on in one process. Without an option its rows are left out. RecBole's wheel has the
data: its ml-100k is cleaned as it is, and its interactions are written in the other forms. Those of --users are
judged; all others have to come back untouched.

    pip install 'setuptools<81' 'numpy<2' 'pandas<3' torch recbole==1.2.1     # RecBole
    pip install lenskit            pip install rectools            pip install replay-rec
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Row = tuple[str, str, str, str]  # user, item, rating, time


@dataclass(frozen=True)
class Data:
    """The interactions and titles of RecBole's ml-100k, and where its files are."""

    folder: Path
    rows: list[Row]
    titles: dict[str, str]
    users: tuple[int, int]

    @classmethod
    def read(cls, recbole: str, users: tuple[int, int]) -> Data:
        find = "import importlib.util as u; print(u.find_spec('recbole').submodule_search_locations[0])"
        folder = Path(output([recbole, "-c", find]).strip(), "dataset_example", "ml-100k")
        table = [line.split("\t") for line in (folder / "ml-100k.inter").read_text("utf-8").splitlines()[1:]]
        items = [line.split("\t") for line in (folder / "ml-100k.item").read_text("utf-8").splitlines()[1:]]
        return cls(folder, [(u, i, r, t) for u, i, r, t in table], {i: title for i, title, *_ in items}, users)

    def few(self) -> list[Row]:
        """The interactions of the users that are judged."""
        first, last = self.users
        return [row for row in self.rows if first <= int(row[0]) <= last]


@dataclass(frozen=True)
class Trip:
    """A log, cleaned by the command and loaded by a library.

    Attributes:
        name: of the form.
        write: puts its files into a folder; gives the log's name there.
        library: whose environment loads the folder.
        load: Python that has the folder in ``folder`` and sets ``loaded``, the number of rows.
        options: for ``llm4dsr clean``.
    """

    name: str
    write: Callable[[Data, Path], str]
    library: str
    load: str
    options: Sequence[str] = field(default_factory=list)


# --- files -----------------------------------------------------------------------------------------------------------


def recbole_folder(data: Data, folder: Path) -> str:
    for ending in ("inter", "item", "user"):
        (folder / f"films.{ending}").write_bytes((data.folder / f"ml-100k.{ending}").read_bytes())
    return "films.inter"


def recbole_lists(data: Data, folder: Path) -> str:
    """Histories and what comes after them, in the three files that RecBole's ``benchmark_filename`` names."""
    histories: dict[str, list[str]] = {}
    for user, item, _, _ in sorted(data.few(), key=lambda row: float(row[3])):
        histories.setdefault(user, []).append(item)
    for name, last in (("train", -3), ("valid", -2), ("test", -1)):
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        lines += [f"{user}\t{' '.join(items[:last])}\t{items[last]}" for user, items in histories.items()]
        (folder / f"films.{name}.inter").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "films.item").write_bytes((data.folder / "ml-100k.item").read_bytes())
    return "films.train.inter"


def movielens_latest(data: Data, folder: Path) -> str:
    (folder / "ratings.csv").write_text(table(["userId", "movieId", "rating", "timestamp"], data.rows), "utf-8")
    movies = [(item, title, "(no genres listed)") for item, title in data.titles.items()]
    (folder / "movies.csv").write_text(table(["movieId", "title", "genres"], movies), "utf-8")
    return "ratings.csv"


def movielens_1m(data: Data, folder: Path) -> str:
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\n" for row in data.rows), "latin-1")
    movies = "".join(f"{item}::{title}::Drama\n" for item, title in data.titles.items())
    (folder / "movies.dat").write_text(movies, "latin-1")
    return "ratings.dat"


def movielens_100k(data: Data, folder: Path) -> str:
    (folder / "u.data").write_text("".join("\t".join(row) + "\n" for row in data.rows), "latin-1")
    movies = "".join(
        f"{item}|{title}|01-Jan-1995||http://x|{'|'.join('0' * 19)}\n" for item, title in data.titles.items()
    )
    (folder / "u.item").write_text(movies, "latin-1")
    return "u.data"


def amazon_2023(data: Data, folder: Path) -> str:
    with (folder / "reviews.jsonl").open("w", encoding="utf-8") as file:
        for user, item, rating, time in data.few():
            review = {"rating": float(rating), "title": "Fine", "text": "I liked it.", "images": [], "asin": f"V{item}"}
            more = {"parent_asin": f"B{item}", "user_id": f"A{user}", "timestamp": int(float(time)) * 1000}
            file.write(json.dumps({**review, **more, "helpful_vote": 0, "verified_purchase": True}) + "\n")
    with (folder / "meta.jsonl").open("w", encoding="utf-8") as file:
        for item, title in data.titles.items():
            file.write(json.dumps({"main_category": "Movies", "title": title, "parent_asin": f"B{item}"}) + "\n")
    return "reviews.jsonl"


def mind(data: Data, folder: Path) -> str:
    histories: dict[str, list[str]] = {}
    for user, item, _, _ in sorted(data.few(), key=lambda row: float(row[3])):
        histories.setdefault(user, []).append(f"N{item}")
    rows = [
        f"{2 * n + again}\tU{user}\t11/1{again}/2019 8:36:57 AM\t{' '.join(items)}\tN1-{again} N2-0\n"
        for n, (user, items) in enumerate(histories.items())
        for again in (0, 1)
    ]
    (folder / "behaviors.tsv").write_text("".join(rows), "utf-8")
    news = "".join(f"N{item}\tnews\tus\t{title}\t\thttp://x\t[]\t[]\n" for item, title in data.titles.items())
    (folder / "news.tsv").write_text(news, "utf-8")
    return "behaviors.tsv"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


# --- what the libraries do -------------------------------------------------------------------------------------------

RECBOLE = """
import logging, warnings
warnings.simplefilter("ignore")
from recbole import __version__ as version
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
columns = {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "movie_title"]}
config = {"data_path": str(folder.parent), "load_col": columns, "state": "ERROR", "epochs": 1}
dataset = create_dataset(Config(model="Pop", dataset="films", config_dict=config))
data_preparation(Config(model="Pop", dataset="films", config_dict=config), dataset)
loaded = dataset.inter_num
"""
RECBOLE_LISTS = """
import warnings
warnings.simplefilter("ignore")
from recbole import __version__ as version
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
columns = {"inter": ["user_id", "item_id_list", "item_id"], "item": ["item_id", "movie_title"]}
config = {"data_path": str(folder.parent), "load_col": columns, "state": "ERROR", "alias_of_item_id": ["item_id_list"],
          "benchmark_filename": ["train", "valid", "test"], "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 1000}
config = Config(model="SASRec", dataset="films", config_dict=config)
dataset = create_dataset(config)
train, _, _ = data_preparation(config, dataset)
loaded = int((train.dataset.inter_feat["item_id_list"] > 0).sum())
"""
LENSKIT = """
from lenskit import __version__ as version
from lenskit.data import load_movielens_df
loaded = len(load_movielens_df(folder))
"""
PANDAS_JSON = """
import pandas
from pandas import __version__ as version
loaded = len(pandas.read_json(folder / "reviews.jsonl", lines=True))
"""
PANDAS_MIND = """
import pandas
from pandas import __version__ as version
rows = pandas.read_csv(folder / "behaviors.tsv", sep="\\t", header=None, quoting=3)
assert rows.groupby(1)[3].nunique().eq(1).all()
loaded = int(rows[3].str.split().str.len().sum())
"""
TRIPS = [
    Trip("its own ml-100k: `.inter` and `.item`", recbole_folder, "recbole", RECBOLE, ["WHERE"]),
    Trip("histories: `item_id_list:token_seq`", recbole_lists, "recbole", RECBOLE_LISTS),
    Trip("MovieLens latest: `ratings.csv`, `movies.csv`", movielens_latest, "lenskit", LENSKIT, ["WHERE"]),
    Trip("MovieLens 1M: `ratings.dat`, `movies.dat`", movielens_1m, "lenskit", LENSKIT, ["WHERE"]),
    Trip("MovieLens 100K: `u.data`, `u.item`", movielens_100k, "lenskit", LENSKIT, ["WHERE"]),
    Trip("Amazon 2023: reviews and metadata", amazon_2023, "pandas", PANDAS_JSON, ["--catalog", "meta.jsonl"]),
    Trip("MIND: `behaviors.tsv`, `news.tsv`", mind, "pandas", PANDAS_MIND),
]
# What a library calls the folder of a data set. RecBole reads its own ml-100k for that name, whatever the path.
FOLDERS = {recbole_folder: "films", recbole_lists: "films", movielens_latest: "ml-latest-small",
           movielens_1m: "ml-1m", movielens_100k: "ml-100k"}  # fmt: skip

RECTOOLS = """
import pandas
from importlib.metadata import version as version_of
from rectools import Columns
from rectools.dataset import Dataset
version = version_of("rectools")
log = pandas.read_csv(folder / "ratings.csv")
log.columns = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]
log[Columns.Datetime] = pandas.to_datetime(log[Columns.Datetime], unit="s")
where = {"user": Columns.User, "item": Columns.Item, "time": Columns.Datetime, "titles": folder / "movies.csv"}
cleaned = clean_frame(log, **where, action=action, fallback="keep", threads=threads)
before, loaded = len(log), len(Dataset.construct(cleaned).get_raw_interactions())
assert cleaned.dtypes.equals(log.dtypes)
same = cleaned.drop(columns=Columns.Item).equals(log.loc[cleaned.index].drop(columns=Columns.Item))
changed = int((cleaned[Columns.Item] != log.loc[cleaned.index, Columns.Item]).sum())
"""
REPLAY = """
import polars
from importlib.metadata import version as version_of
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureType
version = version_of("replay-rec")
log = polars.read_csv(folder / "ratings.csv").rename({"userId": "user_id", "movieId": "item_id"}).with_row_index("row")
where = {"user": "user_id", "item": "item_id", "time": "timestamp", "titles": folder / "movies.csv"}
cleaned = clean_frame(log, **where, action=action, fallback="keep", threads=threads)
hints = {"user_id": FeatureHint.QUERY_ID, "item_id": FeatureHint.ITEM_ID, "timestamp": FeatureHint.TIMESTAMP}
schema = [FeatureInfo(name, FeatureType.CATEGORICAL, hint) for name, hint in list(hints.items())[:2]]
schema += [FeatureInfo("rating", FeatureType.NUMERICAL, FeatureHint.RATING)]
schema += [FeatureInfo("timestamp", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP)]
before, loaded = len(log), len(Dataset(FeatureSchema(schema), cleaned).interactions)
assert cleaned.schema == log.schema
kept = log.filter(polars.col("row").is_in(cleaned["row"].implode()))
same = cleaned.drop("item_id").equals(kept.drop("item_id"))
changed = int((cleaned["item_id"] != kept["item_id"]).sum())
"""
FRAMES = [("RecTools", "pandas frame, `Dataset.construct`", "rectools", RECTOOLS),
          ("RePlay", "polars frame, `Dataset`", "replay", REPLAY)]  # fmt: skip
NAMES = {"recbole": "RecBole", "lenskit": "LensKit", "pandas": "pandas"}


# --- running ---------------------------------------------------------------------------------------------------------


def output(command: Sequence[str | Path], **more: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]}\n{done.stderr[-3000:]}")
    return done.stdout


def asked(python: str, code: str, folder: Path, wanted: Sequence[str], *before: str) -> dict[str, Any]:
    """What some code in another environment says of a folder."""
    first = f"import json, pathlib\nfolder = pathlib.Path({str(folder)!r})"
    last = f"print('ANSWER', json.dumps({{name: globals()[name] for name in {[*wanted]!r}}}))"
    code = "\n".join([first, *before, code, last])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if before:
        environment["PYTHONPATH"] = str(ROOT)
    answer = output([python, "-c", code], cwd=folder.parent, env=environment)
    found: dict[str, Any] = json.loads(answer[answer.index("ANSWER") + 6 :].splitlines()[0])
    return found


def rest(log: Path, cleaned: Path) -> str:
    """How the lines of the cleaned log compare with those of the log."""
    before, after = log.read_bytes().split(b"\n"), cleaned.read_bytes().split(b"\n")
    if len(before) == len(after):
        return f"{sum(one != other for one, other in zip(before, after, strict=True)):,} lines differ"
    left = iter(before)
    return "the same bytes" if all(line in left for line in after) else "OTHER LINES"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("recbole", "lenskit", "rectools", "replay"):
        parser.add_argument(f"--{name}", metavar="PYTHON", required=name == "recbole")
    parser.add_argument("--users", type=int, nargs=2, default=[30, 36], help="the first and the last that are judged")
    parser.add_argument("--action", nargs="+", default=["drop", "replace"], choices=["drop", "replace"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    pythons = {**vars(arguments), "pandas": sys.executable}
    data = Data.read(arguments.recbole, tuple(arguments.users))
    print("| library | version | what | action | rows | loaded again | the other lines |")
    print("| --- | --- | --- | --- | ---: | ---: | --- |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for action in arguments.action:
            for number, trip in enumerate(TRIPS):
                python = pythons[trip.library]
                if python is None:
                    continue
                before, after = (
                    Path(scratch, action, str(number), side, FOLDERS.get(trip.write, "data")) for side in "ba"
                )
                for folder in (before, after):
                    folder.mkdir(parents=True)
                    log = trip.write(data, folder)
                options = [
                    str(after / one) if (after / one).is_file() else one
                    for option in trip.options
                    for one in (["--where", where(log, data)] if option == "WHERE" else [option])
                ]
                clean = [sys.executable, "-m", "llm4dsr_cli", "clean", before / log, after / log, "--quiet"]
                more = [
                    "--action",
                    action,
                    *(["--fallback", "keep"] if action == "replace" else []),
                    "--threads",
                    str(arguments.threads),
                ]
                output([*clean, *more, *options], cwd=scratch, env={**os.environ, "PYTHONPATH": str(ROOT)})
                first = asked(python, trip.load, before, ["loaded"])
                second = asked(python, trip.load, after, ["loaded", "version"])
                compared = rest(before / log, after / log)
                row = (NAMES[trip.library], second["version"], trip.name, action)
                print(f"| {' | '.join(row)} | {first['loaded']:,} | {second['loaded']:,} | {compared} |", flush=True)
            for library, what, option, code in FRAMES:
                if pythons[option] is None:
                    continue
                folder = Path(scratch, action, option)
                folder.mkdir(parents=True)
                movielens_latest(Data(data.folder, data.few(), data.titles, data.users), folder)
                first_lines = [
                    "from llm4dsr_cli import clean_frame",
                    f"action, threads = {action!r}, {arguments.threads}",
                ]
                wanted = ["version", "before", "loaded", "same", "changed"]
                found = asked(pythons[option], code, folder, wanted, *first_lines)
                told = f"{found['changed']:,} ids differ" if found["same"] else "other cells differ"
                row = (library, found["version"], what, action)
                print(f"| {' | '.join(row)} | {found['before']:,} | {found['loaded']:,} | {told} |", flush=True)


def where(log: str, data: Data) -> str:
    column = "userId" if log == "ratings.csv" else "user_id"
    return f"{column} >= {data.users[0]} and {column} <= {data.users[1]}"


if __name__ == "__main__":
    main()
