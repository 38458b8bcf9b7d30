/* libuv, unmodified, embedded by its fd: TCP over loopback, timers, its own wake-ups and its own worker threads, on an AioContext that
 * also serves bottom halves and moves to another context in the middle. */
#include "support.h"
#include <uv.h>

enum { ROUNDS = 2000, HALF = ROUNDS / 2 };

/* A uv loop on an AioContext. */
typedef struct {
    uv_loop_t loop;
    QContextAio *aio;
    QContextTimer timer;
    uv_tcp_t server, client, accepted;
    uv_timer_t tick;
    uv_async_t async;
    uv_connect_t connect;
    uv_work_t work;
    char byte;
} Embedded;

static gint rounds, ticks, asyncs, jobs, jobs_done, misplaced;
static gpointer homes[2], current;
static gint moved;

static void note_thread(void)
{
    gpointer self = g_thread_self();

    if (self != homes[0] && self != homes[1]) {
        g_atomic_int_inc(&misplaced);
    } else if (g_atomic_int_get(&moved) && self == homes[0]) {
        g_atomic_int_inc(&misplaced);
    }
    g_atomic_pointer_set(&current, self);
}

/* Lets uv do what is ready; what it waits for then, its fd and the timer tell. */
static void serve(gpointer data)
{
    Embedded *self = data;

    note_thread();
    uv_run(&self->loop, UV_RUN_NOWAIT);
    int timeout = uv_backend_timeout(&self->loop);
    if (timeout < 0) {
        qcontext_timer_del(&self->timer);
    } else {
        qcontext_timer_mod_ns(&self->timer,
                              qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME) + timeout * G_GINT64_CONSTANT(1000000));
    }
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer)
{
    static char storage[2][64];
    Embedded *self = handle->loop->data;

    (void)size;
    *buffer = uv_buf_init(storage[handle == (uv_handle_t *)&self->client], sizeof(storage[0]));
}

static void on_written(uv_write_t *request, int status)
{
    g_assert_cmpint(status, ==, 0);
    g_free(request);
}

static void send_byte(uv_stream_t *stream)
{
    Embedded *self = stream->loop->data;
    uv_buf_t buffer = uv_buf_init(&self->byte, 1);

    g_assert_cmpint(uv_write(g_new0(uv_write_t, 1), stream, &buffer, 1, on_written), ==, 0);
}

static void on_echo(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    (void)buffer;
    g_assert_cmpint(count, ==, 1);
    note_thread();
    send_byte(stream);
}

static void on_reply(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    (void)buffer;
    g_assert_cmpint(count, ==, 1);
    note_thread();
    if (g_atomic_int_add(&rounds, 1) + 1 < ROUNDS) {
        send_byte(stream);
    }
}

static void on_connection(uv_stream_t *server, int status)
{
    Embedded *self = server->loop->data;

    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(uv_accept(server, (uv_stream_t *)&self->accepted), ==, 0);
    g_assert_cmpint(uv_read_start((uv_stream_t *)&self->accepted, on_alloc, on_echo), ==, 0);
}

static void on_connected(uv_connect_t *request, int status)
{
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(uv_read_start(request->handle, on_alloc, on_reply), ==, 0);
    send_byte(request->handle);
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
    note_thread();
    g_atomic_int_inc(&ticks);
}

static void on_async(uv_async_t *async)
{
    (void)async;
    note_thread();
    g_atomic_int_inc(&asyncs);
}

static void on_work(uv_work_t *work)
{
    (void)work;
    g_assert_true(g_thread_self() != homes[0] && g_thread_self() != homes[1]);
    g_atomic_int_inc(&jobs);
}

static void on_work_done(uv_work_t *work, int status)
{
    (void)work;
    g_assert_cmpint(status, ==, 0);
    note_thread();
    g_atomic_int_inc(&jobs_done);
}

/* On the home thread: uv may be touched there only. */
static void begin(gpointer data)
{
    Embedded *self = data;
    struct sockaddr_in address;
    int length = sizeof(address);

    g_assert_cmpint(uv_ip4_addr("127.0.0.1", 0, &address), ==, 0);
    g_assert_cmpint(uv_tcp_init(&self->loop, &self->server), ==, 0);
    g_assert_cmpint(uv_tcp_init(&self->loop, &self->client), ==, 0);
    g_assert_cmpint(uv_tcp_init(&self->loop, &self->accepted), ==, 0);
    g_assert_cmpint(uv_tcp_bind(&self->server, (struct sockaddr *)&address, 0), ==, 0);
    g_assert_cmpint(uv_listen((uv_stream_t *)&self->server, 1, on_connection), ==, 0);
    g_assert_cmpint(uv_tcp_getsockname(&self->server, (struct sockaddr *)&address, &length), ==, 0);
    g_assert_cmpint(uv_tcp_connect(&self->connect, &self->client, (struct sockaddr *)&address, on_connected), ==, 0);
    g_assert_cmpint(uv_timer_init(&self->loop, &self->tick), ==, 0);
    g_assert_cmpint(uv_timer_start(&self->tick, on_tick, 1, 1), ==, 0);
    g_assert_cmpint(uv_queue_work(&self->loop, &self->work, on_work, on_work_done), ==, 0);
    serve(self);
}

static void close_handle(uv_handle_t *handle, void *unused)
{
    (void)unused;
    uv_close(handle, NULL);
}

static void end(gpointer data)
{
    Embedded *self = data;

    uv_walk(&self->loop, close_handle, NULL);
    while (uv_run(&self->loop, UV_RUN_NOWAIT)) {
    }
    qcontext_timer_del(&self->timer);
    g_assert_true(qcontext_aio_remove_fd(self->aio, uv_backend_fd(&self->loop)));
    g_assert_cmpint(uv_loop_close(&self->loop), ==, 0);
}

int main(void)
{
    QContext *first = new_threaded("uv1"), *second = new_threaded("uv2");
    Embedded self = { .byte = 'x' };
    QContextFdOps ops = { .read = serve };
    Probe probe = { 0 };

    alarm(TEST_DEADLINE_S);
    homes[0] = home_of(first);
    homes[1] = home_of(second);
    self.aio = qcontext_aio_new(NULL);
    QContextBh *bh = qcontext_bh_new(self.aio, "witness", probe_call, &probe, probe_destroy);
    g_assert_true(qcontext_aio_attach(self.aio, first, "uv", NULL));
    g_assert_cmpint(uv_loop_init(&self.loop), ==, 0);
    self.loop.data = &self;
    g_assert_cmpint(uv_async_init(&self.loop, &self.async, on_async), ==, 0);
    qcontext_timer_init(&self.timer, self.aio, QCONTEXT_CLOCK_REALTIME, 1, serve, &self);
    g_assert_true(qcontext_aio_set_fd_handler(self.aio, uv_backend_fd(&self.loop), &ops, &self, NULL, NULL));
    g_assert_true(qcontext_invoke_sync(first, begin, &self, NULL));
    while (g_atomic_int_get(&rounds) < HALF) {
        qcontext_bh_schedule(bh);
        g_usleep(50);
    }
    wait_for(&probe.calls, 1);
    g_assert_true(probe.call_thread == homes[0]);
    g_assert_true(qcontext_aio_move(self.aio, first, second, "uv", NULL));
    g_atomic_int_set(&moved, 1);
    gint before = probe.calls;
    g_assert_true(qcontext_stop(first, NULL));
    qcontext_bh_schedule(bh);
    wait_for(&rounds, ROUNDS);
    wait_for(&probe.calls, before + 1);
    g_assert_true(probe.call_thread == homes[1]);
    /* uv's own wake-up, from this thread. */
    g_assert_cmpint(uv_async_send(&self.async), ==, 0);
    wait_for(&asyncs, 1);
    wait_for(&jobs_done, 1);
    before = g_atomic_int_get(&ticks);
    wait_for(&ticks, before + 5);
    g_assert_true(g_atomic_pointer_get(&current) == homes[1]);
    g_assert_cmpint(jobs, ==, 1);
    g_assert_cmpint(misplaced, ==, 0);
    g_assert_true(qcontext_invoke_sync(second, end, &self, NULL));
    g_assert_cmpint(rounds, ==, ROUNDS);
    qcontext_bh_delete(bh);
    g_assert_true(qcontext_stop(second, NULL));
    qcontext_aio_unref(self.aio);
    g_assert_cmpint(probe.destroyed, ==, 1);
    qcontext_unref(first);
    qcontext_unref(second);
    return 0;
}
