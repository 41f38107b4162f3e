"""A repository of a hub as a source: fetched into its client's cache, or streamed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ckptfmt.errors import HubError, SourceError, failing_as
from ckptfmt.sources.base import Sidecar, SourceFile
from ckptfmt.sources.blocks import begun_sum, check_sum
from ckptfmt.sources.folder import Weights, weight_map
from ckptfmt.sources.repository import choose_files
from ckptfmt.sources.streamed import StreamedSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.hub_address import HubAddress
    from ckptfmt.options import HubOptions
    from ckptfmt.sources.base import Source
    from ckptfmt.sources.repository import Needed, Repository, RepositoryFile

#: Files fetched at once; a client may divide each of them further.
FETCHERS = 4
_COPY_NBYTES = 4 << 20
#: That of a million tensors with long names is smaller.
MAX_WEIGHT_INDEX_NBYTES = 128 << 20


def open_hub(
    address: HubAddress,
    options: HubOptions,
    open_weights: Callable[[str, Weights], Source],
) -> Source:
    """Open a repository.

    Parameters
    ----------
    address : HubAddress
        Which one.
    options : HubOptions
        How to log in, and whether to stream.
    open_weights : callable
        Given a folder and its weights, the source.

    Raises
    ------
    HubError
        The hub refuses, cannot be reached, or sends other bytes than it publishes.
    SourceError
        The repository has no weights that can be read, or lists what no honest hub would.
    MissingDependencyError
        The hub's client is not installed.
    """
    repository = connect(address, options)
    try:
        needed = choose_files(str(address), repository.files)
        opened = (
            _streamed(repository, needed)
            if options.stream
            else _fetched(repository, needed, open_weights)
        )
    except BaseException:
        repository.close()
        raise
    try:
        paths = _fetch_all(repository, needed.sidecars)
        description = opened.description
        description.sidecars = [Sidecar(paths[s.name], s.name) for s in needed.sidecars]
        description.left_out = needed.left_out
        if not options.stream:
            repository.close()
    except BaseException:
        opened.close()
        raise
    return opened


def connect(address: HubAddress, options: HubOptions) -> Repository:
    """Ask a hub, or its client's cache, for a repository's files."""
    if address.hub == "modelscope":
        from ckptfmt.sources.modelscope import ModelScopeRepository  # noqa: PLC0415

        return ModelScopeRepository(address, options.token)
    from ckptfmt.sources.huggingface import HuggingFaceRepository  # noqa: PLC0415

    return HuggingFaceRepository(address, options.token)


def _fetched(
    repository: Repository,
    needed: Needed,
    open_weights: Callable[[str, Weights], Source],
) -> Source:
    weights, expected = _weights(repository, needed)
    paths = _fetch_all(repository, weights)
    names = tuple(file.name for file in weights)
    # All of them lie in the client's folder of this revision.
    folder = paths[names[0]].removesuffix(names[0]).rstrip("/")
    opened = open_weights(folder, Weights(needed.kind, names, expected))
    opened.description.files = [SourceFile(file.name, file.nbytes, 0) for file in weights]
    opened.description.provenance = _provenance(repository, weights)
    return opened


def _streamed(repository: Repository, needed: Needed) -> Source:
    if needed.kind != "safetensors":
        raise SourceError(
            f"{repository.address}: has no safetensors, and other weights cannot be streamed",
            hint="without --stream the files are fetched first, into the cache of the hub's client",
        )
    weights, expected = _weights(repository, needed)
    opened = StreamedSource(repository, weights)
    refuse_missing(str(repository.address), opened, expected)
    opened.description.provenance = _provenance(repository, weights)
    return opened


def refuse_missing(where: str, opened: Source, expected: dict[str, str]) -> None:
    """Refuse files that lack a tensor which the weight index promises."""
    names = {name for spec in opened.tensors for name in spec.names}
    for name, file in expected.items():
        if name not in names:
            raise SourceError(
                f"{where}: the index promises tensor {name!r} in {file}, which lacks it",
                hint="the files are of different versions: fetch them again",
            )


def _weights(
    repository: Repository, needed: Needed
) -> tuple[list[RepositoryFile], dict[str, str]]:
    """The files with tensors, and which tensor is promised where."""
    if needed.index is None:
        return needed.weights, {}
    where = f"{repository.address}: {needed.index.name}"
    if needed.index.nbytes > MAX_WEIGHT_INDEX_NBYTES:
        raise SourceError(
            f"{where}: {needed.index.nbytes} bytes, at most {MAX_WEIGHT_INDEX_NBYTES} are read"
        )
    path = _fetch_all(repository, [needed.index])[needed.index.name]
    expected = weight_map(path, where)
    listed = {file.name: file for file in repository.files}
    names = sorted(set(expected.values()))
    missing = [name for name in names if name not in listed]
    if missing:
        raise SourceError(f"{where}: names {missing[0]!r}, which is not in the repository")
    files = [listed[name] for name in names]
    needed.left_out[:] = [name for name in needed.left_out if name not in names]
    return files, expected


def _provenance(repository: Repository, weights: list[RepositoryFile]) -> dict[str, object]:
    """Where it is from. Neither the endpoint nor who asked: they do not decide about the bytes."""
    return {
        "hub": repository.address.hub, "repository": repository.address.repository,
        "commit": repository.commit, "files": [file.described() for file in weights],
    }  # fmt: skip


def _fetch_all(repository: Repository, files: list[RepositoryFile]) -> dict[str, str]:
    """Fetch files, several at once, and check their sums; where each of them is."""

    def fetch(file: RepositoryFile) -> str:
        where = f"{repository.address}: {file.name}"
        with failing_as(where, "cannot be put into the cache of the hub's client"):
            path = repository.fetch(file.name)
        _check(where, path, file)
        return path

    with ThreadPoolExecutor(FETCHERS, "ckptfmt-fetch") as pool:
        futures = [pool.submit(fetch, file) for file in files]
        try:
            return {file.name: f.result() for file, f in zip(files, futures, strict=True)}
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _check(where: str, path: str, file: RepositoryFile) -> None:
    digest = begun_sum(file)
    nbytes = 0
    with failing_as(path, "cannot be read"), open(path, "rb") as stream:
        while data := stream.read(_COPY_NBYTES):
            nbytes += len(data)
            if file.digest:
                digest.update(data)
    if nbytes != file.nbytes:
        raise HubError(f"{where}: {nbytes} bytes came, the hub says {file.nbytes}", file=file.name)
    if file.digest:
        check_sum(where, file, digest.hexdigest())
