/*
 * TLS from a client's side, without I/O: OpenSSL between two buffers in memory.
 *
 * cnm_core/tls.py moves their bytes to and from a socket; deadlines stay there.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define HANDLE "cnm.tls"

static PyObject *refuse(PyObject *exception, const char *what, const char *why)
{
    unsigned long code = ERR_peek_last_error();
    PyObject *text, *arguments;

    if (why == NULL)
        why = code && ERR_reason_error_string(code) ? ERR_reason_error_string(code) : "failed";
    text = PyUnicode_FromFormat("%s: %s", what, why);
    arguments = exception == PyExc_OSError ? Py_BuildValue("(iN)", EPROTO, text) : text;
    if (arguments)
        PyErr_SetObject(exception, arguments);
    Py_XDECREF(arguments);
    ERR_clear_error();
    return NULL;
}

static void discard(PyObject *capsule)
{
    SSL_free(PyCapsule_GetPointer(capsule, HANDLE));
}

static SSL *connection(SSL_CTX *context, const char *host, int verified)
{
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    int good = ssl && in && out;

    /* Of an address there is no name to indicate (RFC 6066, section 3). */
    if (good && !X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host))
        good = SSL_set_tlsext_host_name(ssl, host) && (!verified || SSL_set1_host(ssl, host));
    if (!good) {
        SSL_free(ssl);
        BIO_free(in);
        BIO_free(out);
        return NULL;
    }
    SSL_set_bio(ssl, in, out);
    SSL_set_connect_state(ssl);
    return ssl;
}

/* tls_new(host, ca, certificate, key): a handle. Without `ca` nobody is verified. */
PyObject *cnm_tls_new(PyObject *self, PyObject *args)
{
    const char *host, *ca, *certificate, *key;
    SSL_CTX *context;
    SSL *ssl;

    (void)self;
    if (!PyArg_ParseTuple(args, "szzz", &host, &ca, &certificate, &key))
        return NULL;
    /* No openssl.cnf: its path is that of the machine of the build. */
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION)) {
        SSL_CTX_free(context);
        return refuse(PyExc_ValueError, "TLS", NULL);
    }
    SSL_CTX_set_verify(context, ca ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (ca && !SSL_CTX_load_verify_file(context, ca))
        refuse(PyExc_ValueError, ca, NULL);
    else if (certificate && SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
        refuse(PyExc_ValueError, certificate, NULL);
    else if (key && SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        refuse(PyExc_ValueError, key, NULL);
    if (PyErr_Occurred()) {
        SSL_CTX_free(context);
        return NULL;
    }
    ssl = connection(context, host, ca != NULL);
    SSL_CTX_free(context); /* which the connection goes on to hold */
    return ssl ? PyCapsule_New(ssl, HANDLE, discard) : refuse(PyExc_ValueError, host, NULL);
}

static PyObject *drained(BIO *bio)
{
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)BIO_ctrl_pending(bio));

    if (data && PyBytes_GET_SIZE(data))
        BIO_read(bio, PyBytes_AS_STRING(data), (int)PyBytes_GET_SIZE(data));
    return data;
}

/* All plain text that has come, as bytes; `*closed` once the other side has said goodbye. */
static PyObject *received(SSL *ssl, int *closed)
{
    static char piece[1 << 14];
    PyObject *data = PyBytes_FromStringAndSize(NULL, 0);
    int size;

    while (data && (size = SSL_read(ssl, piece, sizeof piece)) > 0)
        PyBytes_ConcatAndDel(&data, PyBytes_FromStringAndSize(piece, size));
    if (data == NULL)
        return NULL;
    *closed = SSL_get_error(ssl, size) == SSL_ERROR_ZERO_RETURN;
    if (*closed || SSL_get_error(ssl, size) == SSL_ERROR_WANT_READ)
        return data;
    Py_DECREF(data);
    return refuse(PyExc_OSError, "TLS", NULL);
}

/*
 * tls_pump(handle, received, plain): take bytes off the wire and plain text to send; give
 * (plain text, bytes for the wire, whether hands are shaken, whether the other side is done).
 * Plain text to send must wait until hands are shaken.
 */
PyObject *cnm_tls_pump(PyObject *self, PyObject *args)
{
    PyObject *capsule, *plain = NULL;
    Py_buffer wire, text;
    int shaken, closed = 0;
    long verdict;
    SSL *ssl;

    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*y*", &capsule, &wire, &text))
        return NULL;
    ssl = PyCapsule_GetPointer(capsule, HANDLE);
    ERR_clear_error();
    if (ssl == NULL)
        goto end;
    if (wire.len && BIO_write(SSL_get_rbio(ssl), wire.buf, (int)wire.len) != wire.len) {
        PyErr_NoMemory();
        goto end;
    }
    shaken = SSL_do_handshake(ssl);
    if (shaken == 1) {
        if (text.len && SSL_write(ssl, text.buf, (int)text.len) != text.len)
            refuse(PyExc_OSError, "TLS", NULL);
        else
            plain = received(ssl, &closed);
    } else if (SSL_get_error(ssl, shaken) == SSL_ERROR_WANT_READ) {
        plain = PyBytes_FromStringAndSize(NULL, 0);
    } else {
        verdict = SSL_get_verify_result(ssl);
        refuse(PyExc_OSError, "TLS",
               verdict == X509_V_OK || SSL_get_verify_mode(ssl) == SSL_VERIFY_NONE
                   ? NULL : X509_verify_cert_error_string(verdict));
    }
end:
    PyBuffer_Release(&wire);
    PyBuffer_Release(&text);
    if (plain == NULL)
        return NULL;
    return Py_BuildValue("(NNOO)", plain, drained(SSL_get_wbio(ssl)),
                         shaken == 1 ? Py_True : Py_False, closed ? Py_True : Py_False);
}
