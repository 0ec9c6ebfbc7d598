"""[worker] Why the kernel refused something, in words that tell whoever reads them what to do."""

import errno

READ_ONLY = (
    "the service sees this place read-only; if it is writable for its user, the service's sandbox has to be opened for"
    ' it: see "HOMES OUTSIDE OF /HOME" in clamscannerd(8)'
)


def cause(error: OSError) -> str:
    """strerror, but for EROFS: seen from inside, a sandbox and a read-only disk are the same."""
    return READ_ONLY if error.errno == errno.EROFS else str(error.strerror)
