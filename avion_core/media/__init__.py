"""Video files: probe, transcode into chunks, choose frames, decode and crop them."""


class MediaError(ValueError):
    """A video cannot be used; the message is `path: reason`."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason
