"""Files of numpy arrays (.npy), which may be damaged or hostile. Nothing is unpickled."""

import io
import math

import numpy as np

NPY_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    # differs from 2.0 only in field names of structured arrays, which features are not
    (3, 0): np.lib.format.read_array_header_2_0,
}


def parse_npy(data: bytes) -> np.ndarray:
    """Parse a .npy file without a copy.

    Raises one of `DAMAGED_FILE_ERRORS`, also for a shape larger than the file.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = NPY_HEADER_READERS.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the .npy format")

    try:
        shape, is_fortran_order, dtype = read_header(file)
    except MemoryError as error:  # of Python's parser, for thousands of nested signs
        raise ValueError("its header is too deeply nested") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"shape {shape}")

    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if is_fortran_order else "C")
