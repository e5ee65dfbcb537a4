/*
 * X25519 (RFC 7748) by OpenSSL, for cnm_core/key_agreement.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#define KEY_BYTES 32

/* Whether there is a secret: there is none with a point of low order (RFC 7748, section 6.1). */
static int agree(const Py_buffer *private, const Py_buffer *public, unsigned char *shared)
{
    size_t size = KEY_BYTES;
    EVP_PKEY *own = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private->buf,
                                                 (size_t)private->len);
    EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, public->buf,
                                                   (size_t)public->len);
    EVP_PKEY_CTX *context = own && theirs ? EVP_PKEY_CTX_new(own, NULL) : NULL;
    int good = context && EVP_PKEY_derive_init(context) == 1 &&
               EVP_PKEY_derive_set_peer(context, theirs) == 1 &&
               EVP_PKEY_derive(context, shared, &size) == 1;

    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(theirs);
    EVP_PKEY_free(own);
    ERR_clear_error();
    return good;
}

/* x25519(private, public): the secret that both sides have. */
PyObject *cnm_x25519(PyObject *self, PyObject *args)
{
    unsigned char shared[KEY_BYTES];
    Py_buffer private, public;
    PyObject *secret = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*", &private, &public))
        return NULL;
    /* No openssl.cnf: its path is that of the machine of the build. */
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    if (agree(&private, &public, shared))
        secret = PyBytes_FromStringAndSize((char *)shared, sizeof shared);
    else
        PyErr_SetString(PyExc_ValueError, "no key of X25519 that gives a secret");
    OPENSSL_cleanse(shared, sizeof shared);
    PyBuffer_Release(&private);
    PyBuffer_Release(&public);
    return secret;
}
