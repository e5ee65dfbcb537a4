"""A secret that two hosts have in common, and keys out of it.

X25519 (RFC 7748) is OpenSSL's, which our runtime has within it; HKDF with SHA-256 (RFC 5869)
is written out here.
"""

try:
    from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:  # Python 3.12 or newer
    from _sha2 import sha256  # type: ignore[import-not-found]

KEY_BYTES = 32
_BASE_POINT = bytes((9,)) + bytes(31)
_BLOCK_BYTES = 64  # of SHA-256


# What is left of these keys, whoever's private one they meet, is nothing: the points of order 1,
# 2, 4 and 8 of the curve and its twist (RFC 7748, section 7).
_PRIME = 2**255 - 19
_LOW_ORDER = {
    0,
    1,
    _PRIME - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}


def gives_secret(public: bytes) -> bool:
    """Whether a public key is one that a host may have drawn."""
    # The highest bit is not looked at (RFC 7748, section 5).
    number = int.from_bytes(public, "little") % (1 << 255)
    return number % _PRIME not in _LOW_ORDER


def public_key(private: bytes) -> bytes:
    """What others are to know of a private key."""
    return shared_secret(private, _BASE_POINT)


def shared_secret(private: bytes, public: bytes) -> bytes:
    """The secret of two hosts, from one's private and the other's public key.

    Raises ValueError for a public key that would give a secret known to everybody.
    """
    try:
        from _cnm import x25519  # type: ignore[import-not-found]
    except ImportError:
        x25519 = _x25519_by_ctypes
    shared: bytes = x25519(private, public)
    return shared


def derive(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF without salt: a key of at most 8160 bytes for the purpose that `info` says."""
    key = _hmac(bytes(KEY_BYTES), secret)
    found, block, count = b"", b"", 0
    while len(found) < length:
        count += 1
        block = _hmac(key, block + info + bytes((count,)))
        found += block
    return found[:length]


def digest(data: bytes) -> bytes:
    """SHA-256."""
    found: bytes = sha256(data).digest()
    return found


def _hmac(key: bytes, data: bytes) -> bytes:
    """RFC 2104, for keys that are not longer than a block."""
    padded = key.ljust(_BLOCK_BYTES, b"\0")
    inner = digest(bytes(byte ^ 0x36 for byte in padded) + data)
    return digest(bytes(byte ^ 0x5C for byte in padded) + inner)


def _x25519_by_ctypes(private: bytes, public: bytes) -> bytes:
    """The same by the library that the standard library's ssl has brought along."""
    import ssl
    from ctypes import CDLL, byref, c_char_p, c_int, c_size_t, c_void_p, create_string_buffer

    library = CDLL(f"libcrypto.so.{ssl.OPENSSL_VERSION_INFO[0]}")
    kind = c_int(1034)  # NID_X25519, obj_mac.h
    for make in (library.EVP_PKEY_new_raw_private_key, library.EVP_PKEY_new_raw_public_key):
        make.restype = c_void_p
        make.argtypes = [c_int, c_void_p, c_char_p, c_size_t]
    library.EVP_PKEY_CTX_new.restype = c_void_p
    own = c_void_p(library.EVP_PKEY_new_raw_private_key(kind, None, private, len(private)))
    theirs = c_void_p(library.EVP_PKEY_new_raw_public_key(kind, None, public, len(public)))
    context = c_void_p(library.EVP_PKEY_CTX_new(own, None) if own.value and theirs.value else None)
    shared, size = create_string_buffer(KEY_BYTES), c_size_t(KEY_BYTES)
    try:
        if not (
            context.value
            and library.EVP_PKEY_derive_init(context) == 1
            and library.EVP_PKEY_derive_set_peer(context, theirs) == 1
            and library.EVP_PKEY_derive(context, shared, byref(size)) == 1
        ):
            library.ERR_clear_error()
            raise ValueError("no key of X25519 that gives a secret")
    finally:
        library.EVP_PKEY_CTX_free(context)
        library.EVP_PKEY_free(theirs)
        library.EVP_PKEY_free(own)
    return shared.raw
