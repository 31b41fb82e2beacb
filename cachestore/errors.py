"""What can go wrong with a store.

"Not found" is none of these: it is `None`. Whoever asks a store treats each of
these as a miss; the texts never hold a key, a value or a credential.
"""


class StoreError(Exception):
    """Something is wrong with the store or with what lies in it."""


class StoreUnavailable(StoreError):
    """The store was not reached within its deadline. Worth another try."""


class StoreRefused(StoreError):
    """Redis answered with an error. Trying again will not help by itself.

    Only the error's code is kept: some servers repeat the command, and with it
    keys, values or the password, in the text behind it.
    """

    def __init__(self, code: str) -> None:
        super().__init__(f"refused: {code}")
        self.code = code
        """The first word of Redis' error: OOM, READONLY, NOPERM, WRONGTYPE, …"""


class CorruptEntry(StoreError):
    """Stored bytes that are not what was stored under this key. Never served."""


class OtherKey(CorruptEntry):
    """A whole and sound record, but stored under another key than its own.

    Told apart because it has two causes: someone copied the record, or replies
    on the connection no longer belong to the commands they are taken for.
    """
