"""Files that grow by rows of subjects: zarr and netCDF, with the same content.

The file of a whole simulation is laid out at once and takes its place in one step. Rows of values follow in any order,
the `status` of a subject behind its values: a subject whose status is `PENDING` has not been simulated.
"""

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

PENDING: Final = -1
"""The `status` of a subject that has not been simulated yet."""

HEAD: Final = "kinetwin"
"""The attribute of a file that holds its request."""


@final
@dataclass(frozen=True, eq=False)
class Variable:
    """One array of a file.

    Attributes:
        name, dims, dtype, attrs: as in a dataset.
        values: what it holds from the start; NaN when None.
    """

    name: str
    dims: tuple[str, ...]
    dtype: Any
    attrs: Mapping[str, str]
    values: Any = None


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """What a file holds.

    Attributes:
        sizes: length of every dimension.
        chunk: subjects that are written, and stored, together.
        variables: the arrays.
        head: text of the request.
    """

    sizes: Mapping[str, int]
    chunk: int
    variables: tuple[Variable, ...]
    head: str

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """The lengths of the dimensions of a variable."""
        return tuple(self.sizes[name] for name in variable.dims)

    def chunks(self, variable: Variable) -> tuple[int, ...]:
        """The shape of what is stored together of a variable."""
        return tuple(max(1, min(self.chunk, n) if name == "subject" else n) for name, n in self._sized(variable))

    def _sized(self, variable: Variable) -> list[tuple[str, int]]:
        return list(zip(variable.dims, self.shape(variable), strict=True))


class AbstractFile(ABC):
    """A file that is open for writing."""

    head: str
    status: Any

    @abstractmethod
    def write(self, rows: slice, values: Mapping[str, Any]) -> None:
        """Puts the values of some subjects in their place, their `status` last."""

    @abstractmethod
    def close(self) -> None:
        """Leaves a file that can be opened."""


class AbstractFormat(ABC):
    """How files are written and read."""

    @abstractmethod
    def create(self, place: Path, layout: Layout) -> None:
        """Writes a file without subjects to a place where there is nothing."""

    @abstractmethod
    def open(self, place: Path) -> AbstractFile:
        """A file for writing.

        Raises:
            OSError, ValueError, LookupError: it is not one, or damaged.
        """

    @abstractmethod
    def dataset(self, place: Path) -> "xr.Dataset":
        """A file for reading, its values on demand."""


def begin(kind: AbstractFormat, place: Path, layout: Layout) -> None:
    """Has a file without subjects take its place, as a whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.new-{secrets.token_hex(4)}")
    try:
        kind.create(fresh, layout)
        os.rename(fresh, place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            fresh.unlink()
        raise


@final
class Zarr(AbstractFormat):
    """A folder of compressed pieces, each written as a whole or not at all.

    It has version 2 of the format: version 3 has no settled form for text, and none for metadata in one place.
    """

    def create(self, place: Path, layout: Layout) -> None:
        import zarr
        from numcodecs import Blosc

        # The bytes of smooth curves barely repeat: what costs more than LZ4 saves nothing more.
        pressed = Blosc("lz4", clevel=1, shuffle=Blosc.SHUFFLE)
        group = zarr.create_group(str(place), zarr_format=2, attributes={HEAD: layout.head})
        for variable in layout.variables:
            array = group.create_array(
                variable.name,
                shape=layout.shape(variable),
                chunks=layout.chunks(variable),
                dtype=variable.dtype,
                # Readers take what equals the fill value for missing.
                fill_value=np.nan if variable.values is None else None,
                compressors=pressed,
                attributes={"_ARRAY_DIMENSIONS": list(variable.dims), **variable.attrs},
            )
            if variable.values is not None:
                array[...] = variable.values
        zarr.consolidate_metadata(str(place), zarr_format=2)

    def open(self, place: Path) -> AbstractFile:
        return _ZarrFile(place)

    def dataset(self, place: Path) -> "xr.Dataset":
        import xarray as xr

        return xr.open_zarr(place, chunks=None)


@final
class _ZarrFile(AbstractFile):
    def __init__(self, place: Path) -> None:
        import zarr

        group = zarr.open_group(str(place), mode="r+")
        self._arrays = dict(group.arrays())
        self.head, self.status = str(group.attrs[HEAD]), self._arrays["status"][...]

    def write(self, rows: slice, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name != "status":
                self._arrays[name][rows] = value
        self._arrays["status"][rows] = values["status"]
        self.status[rows] = values["status"]

    def close(self) -> None:
        """Nothing is open between writes."""


@final
class NetCDF(AbstractFormat):
    """One file, not compressed: the compression that all readers of netCDF know takes as long as the solver."""

    def create(self, place: Path, layout: Layout) -> None:
        import h5netcdf
        import xarray as xr

        known = {v.name: v for v in layout.variables if v.values is not None}
        encoding = {n: {"chunksizes": layout.chunks(v), "_FillValue": None} for n, v in known.items() if v.values.size}
        full = xr.Dataset({n: (v.dims, v.values, v.attrs) for n, v in known.items()}, attrs={HEAD: layout.head})
        full.to_netcdf(place, engine="h5netcdf", unlimited_dims=["subject"], encoding=encoding)
        with h5netcdf.File(place, "r+") as file:
            for name in layout.sizes.keys() - file.dimensions.keys():
                file.dimensions[name] = layout.sizes[name]
            for variable in layout.variables:
                if variable.values is None:
                    shape = layout.chunks(variable)
                    made = file.create_variable(
                        variable.name, variable.dims, variable.dtype, fillvalue=np.nan, chunks=shape
                    )
                    for name, text in variable.attrs.items():
                        made.attrs[name] = text

    def open(self, place: Path) -> AbstractFile:
        return _NetCDFFile(place)

    def dataset(self, place: Path) -> "xr.Dataset":
        import xarray as xr

        return xr.open_dataset(place, engine="h5netcdf")


@final
class _NetCDFFile(AbstractFile):
    def __init__(self, place: Path) -> None:
        import h5netcdf

        self._file = h5netcdf.File(place, "r+")
        self.head, self.status = str(self._file.attrs[HEAD]), self._file.variables["status"][...]

    def write(self, rows: slice, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name != "status":
                self._file.variables[name][rows] = value
        self._file.flush()
        self._file.variables["status"][rows] = values["status"]
        self._file.flush()
        self.status[rows] = values["status"]

    def close(self) -> None:
        self._file.close()


FORMATS: Final[Mapping[str, AbstractFormat]] = {".zarr": Zarr(), ".nc": NetCDF()}
"""Formats by the end of a file's name."""
