/* libcurl's multi interface, unmodified, on a named context: its fds are handlers, its timeout a timer. Half way the AioContext moves
 * to another context. */
#include "support.h"
#include <arpa/inet.h>
#include <curl/curl.h>
#include <sys/socket.h>

enum { FETCHES = 20, PARALLEL = 4, BODY = 100000 };

typedef struct {
    CURLM *multi;
    QContextAio *aio;
    QContextTimer timer;
    char url[64];
    gint started, finished, failed;
    gsize received;
} Fetcher;

/* A server for one connection at a time and thread: reads a request, sends the body. */
static gpointer serve_one(gpointer data)
{
    int fd = GPOINTER_TO_INT(data);
    g_autofree char *body = g_strnfill(BODY, 'x');
    g_autofree char *head =
        g_strdup_printf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", BODY);
    char request[4096];

    if (recv(fd, request, sizeof(request), 0) > 0
        && send(fd, head, strlen(head), MSG_NOSIGNAL) > 0) {
        for (gssize sent = 0, n; sent < BODY; sent += n) {
            n = send(fd, body + sent, (size_t)(BODY - sent), MSG_NOSIGNAL);
            if (n <= 0) {
                break;
            }
        }
    }
    close(fd);
    return NULL;
}

static gpointer serve(gpointer data)
{
    int listener = GPOINTER_TO_INT(data);

    for (int i = 0; i < FETCHES; i++) {
        int fd = accept(listener, NULL, NULL);

        g_assert_cmpint(fd, >=, 0);
        g_thread_unref(g_thread_new("connection", serve_one, GINT_TO_POINTER(fd)));
    }
    return NULL;
}

static size_t on_body(char *data, size_t size, size_t count, void *user)
{
    (void)data;
    ((Fetcher *)user)->received += size * count;
    return size * count;
}

static void start_fetch(Fetcher *fetcher)
{
    CURL *easy = curl_easy_init();

    fetcher->started++;
    curl_easy_setopt(easy, CURLOPT_URL, fetcher->url);
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetcher);
    g_assert_cmpint(curl_multi_add_handle(fetcher->multi, easy), ==, CURLM_OK);
}

static void collect(Fetcher *fetcher)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(fetcher->multi, &left))) {
        CURL *easy = message->easy_handle;

        if (message->data.result != CURLE_OK) {
            g_atomic_int_inc(&fetcher->failed);
        }
        curl_multi_remove_handle(fetcher->multi, easy);
        curl_easy_cleanup(easy);
        g_atomic_int_inc(&fetcher->finished);
        if (fetcher->started < FETCHES) {
            start_fetch(fetcher);
        }
    }
}

typedef struct {
    Fetcher *fetcher;
    int fd;
} Watch;

static void act(Fetcher *fetcher, int fd, int what)
{
    int running;

    curl_multi_socket_action(fetcher->multi, fd, what, &running);
    collect(fetcher);
}

static void on_readable(gpointer data)
{
    Watch *watch = data;

    act(watch->fetcher, watch->fd, CURL_CSELECT_IN);
}

static void on_writable(gpointer data)
{
    Watch *watch = data;

    act(watch->fetcher, watch->fd, CURL_CSELECT_OUT);
}

static void on_timeout(gpointer data)
{
    act(data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *unused)
{
    Fetcher *fetcher = user;
    QContextFdOps ops = { 0 };

    (void)easy, (void)unused;
    if (what == CURL_POLL_REMOVE) {
        qcontext_aio_remove_fd(fetcher->aio, fd);
        return 0;
    }
    Watch *watch = g_new(Watch, 1);
    *watch = (Watch) { fetcher, fd };
    ops.read = what & CURL_POLL_IN ? on_readable : NULL;
    ops.write = what & CURL_POLL_OUT ? on_writable : NULL;
    g_assert_true(qcontext_aio_set_fd_handler(fetcher->aio, fd, &ops, watch, g_free, NULL));
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *user)
{
    Fetcher *fetcher = user;

    (void)multi;
    if (timeout_ms < 0) {
        qcontext_timer_del(&fetcher->timer);
    } else {
        qcontext_timer_mod_ns(&fetcher->timer,
                              qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME) + timeout_ms * G_GINT64_CONSTANT(1000000));
    }
    return 0;
}

static void start_all(gpointer data)
{
    Fetcher *fetcher = data;

    fetcher->multi = curl_multi_init();
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
    for (int i = 0; i < PARALLEL; i++) {
        start_fetch(fetcher);
    }
}

static void end_all(gpointer data)
{
    Fetcher *fetcher = data;

    curl_multi_cleanup(fetcher->multi);
    qcontext_timer_del(&fetcher->timer);
}

int main(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    QContext *a = new_threaded("curl-a"), *b = new_threaded("curl-b");
    GError *error = NULL;
    Probe probe = { 0 };
    Fetcher fetcher = { .aio = qcontext_aio_new(NULL) };
    QContextBh *bh = qcontext_bh_new(fetcher.aio, "witness", probe_call, &probe, probe_destroy);

    alarm(TEST_DEADLINE_S);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(listener, FETCHES), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&address, &length), ==, 0);
    g_snprintf(fetcher.url, sizeof(fetcher.url), "http://127.0.0.1:%d/", ntohs(address.sin_port));
    GThread *server = g_thread_new("server", serve, GINT_TO_POINTER(listener));

    qcontext_timer_init(&fetcher.timer, fetcher.aio, QCONTEXT_CLOCK_REALTIME, 1, on_timeout, &fetcher);
    g_assert_true(qcontext_aio_attach(fetcher.aio, a, "curl", NULL));
    g_assert_true(qcontext_invoke_sync(a, start_all, &fetcher, NULL));
    do {
        qcontext_bh_schedule(bh);
        g_usleep(50);
    } while (g_atomic_int_get(&fetcher.finished) < FETCHES / 2);
    g_assert_true(qcontext_aio_move(fetcher.aio, a, b, "curl", &error));
    g_assert_no_error(error);
    wait_for(&fetcher.finished, FETCHES);
    g_assert_cmpint(fetcher.failed, ==, 0);
    g_assert_true(qcontext_invoke_sync(b, end_all, &fetcher, NULL));
    g_assert_cmpuint(fetcher.received, ==, (gsize)FETCHES * BODY);
    wait_for(&probe.calls, 1);
    qcontext_bh_delete(bh);
    g_assert_true(qcontext_aio_detach_sync(fetcher.aio, b, NULL));
    qcontext_aio_unref(fetcher.aio);
    g_thread_join(server);
    g_assert_true(qcontext_stop(a, NULL) && qcontext_stop(b, NULL));
    g_assert_cmpint(probe.destroyed, ==, 1);
    qcontext_unref(a);
    qcontext_unref(b);
    close(listener);
    curl_global_cleanup();
    return 0;
}
