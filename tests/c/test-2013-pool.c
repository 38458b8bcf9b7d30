/* Worker threads by the names and signatures of 2013, and what a request's cancel meant then. */
#include "pipe-2013.h"

enum { REQUESTS = 100 };

typedef struct {
    BlockDriverAIOCB *acb;
    int begun, ret, calls;
} Request;

static int release_workers;

static void count(void *opaque)
{
    ++*(int *)opaque;
}

static int work(void *opaque)
{
    Request *request = opaque;

    g_atomic_int_inc(&request->begun);
    while (!g_atomic_int_get(&release_workers)) {
        g_usleep(100);
    }
    return 5;
}

static int quick(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    return 3;
}

static void done(void *opaque, int ret)
{
    Request *request = opaque;

    request->ret = ret;
    request->calls++;
}

static void request_completes_on_the_loop(void)
{
    AioContext *aio = aio_context_new();
    ThreadPool *pool = aio_get_thread_pool(aio), *own = thread_pool_new(aio);
    Request request = { .ret = -1 };
    int silent = 0;

    g_assert_true(thread_pool_submit_aio(pool, quick, &request.begun, done, &request) != NULL);
    thread_pool_submit(own, quick, &silent);
    g_assert_cmpint(request.calls, ==, 0);
    while (!request.calls || !g_atomic_int_get(&silent)) {
        aio_poll(aio, true);
    }
    g_assert_cmpint(request.ret, ==, 3);
    g_assert_cmpint(request.begun, ==, 1);
    thread_pool_free(own);
    aio_context_unref(aio);
}

static gpointer release_soon(gpointer request)
{
    while (!g_atomic_int_get(&((Request *)request)->begun)) {
        g_usleep(100);
    }
    g_atomic_int_set(&release_workers, 1);
    return NULL;
}

static void cancel_takes_back_or_waits(void)
{
    AioContext *aio = aio_context_new();
    ThreadPool *pool = aio_get_thread_pool(aio);
    Request requests[REQUESTS] = { 0 };
    int active = 0, taken_back = 0;

    aio_context_set_thread_pool_params(aio, 0, 4, NULL);
    release_workers = 0;
    for (int i = 0; i < REQUESTS; i++) {
        requests[i].acb = thread_pool_submit_aio(pool, work, &requests[i], done, &requests[i]);
        active++;
    }
    while (!g_atomic_int_get(&requests[0].begun)) {
        g_usleep(100);
    }
    for (int i = REQUESTS - 1; i >= REQUESTS / 2; i--) {
        bdrv_aio_cancel(requests[i].acb);
        bdrv_aio_cancel(requests[i].acb);
        active--;
        taken_back++;
    }
    /* One that runs: the call waits until it has returned, and the callback comes from the loop. */
    GThread *thread = g_thread_new("release", release_soon, &requests[0]);
    bdrv_aio_cancel(requests[0].acb);
    g_assert_cmpint(release_workers, ==, 1);
    g_assert_cmpint(requests[0].calls, ==, 0);
    g_thread_join(thread);
    for (int ended = 0; ended < active;) {
        aio_poll(aio, true);
        ended = 0;
        for (int i = 0; i < REQUESTS; i++) {
            ended += requests[i].calls;
        }
    }
    for (int i = 0; i < REQUESTS; i++) {
        bool cancelled = i >= REQUESTS / 2;

        g_assert_cmpint(requests[i].calls, ==, !cancelled);
        g_assert_cmpint(requests[i].begun, ==, !cancelled);
        g_assert_cmpint(requests[i].ret, ==, cancelled ? 0 : 5);
    }
    while (aio_poll(aio, false)) {
    }
    aio_context_unref(aio);
}

typedef struct {
    BlockDriverAIOCB common;
    int *cancels;
} OwnRequest;

static void cancel_own(BlockDriverAIOCB *acb)
{
    OwnRequest *request = (OwnRequest *)acb;

    ++*request->cancels;
    qemu_aio_release(request);
}

static void programs_own_request(void)
{
    static const AIOCBInfo info = { .cancel = cancel_own, .aiocb_size = sizeof(OwnRequest) };
    int cancels = 0;
    Request unused = { 0 };
    OwnRequest *request = qemu_aio_get(&info, NULL, done, &unused);

    request->cancels = &cancels;
    g_assert_true(request->common.cb == done && request->common.opaque == &unused);
    bdrv_aio_cancel(&request->common);
    g_assert_cmpint(cancels, ==, 1);
}

static void poll_blocks_without_busy_handlers(void)
{
    /* In 2013 it returned at once when no io_flush callback said that something was going on. */
    AioContext *aio = aio_context_new();
    int n = 0;
    QEMUTimer timer;

    aio_timer_init(aio, &timer, QEMU_CLOCK_REALTIME, SCALE_MS, count, &n);
    timer_mod(&timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 20);
    g_assert_true(aio_poll(aio, true));
    g_assert_cmpint(n, ==, 1);
    timer_del(&timer);
    aio_context_unref(aio);
}

static void unknown_context(void)
{
    qcontext_find_by_name("nosuch", &error_fatal);
}

static void wrong_name(void)
{
    qcontext_new("1", false, &error_fatal);
}

static void ends_with(void (*call)(void), const char *message)
{
    if (g_test_subprocess()) {
        call();
        _exit(0);
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr(message);
}

static void fatal_error_of_a_search(void)
{
    ends_with(unknown_context, "*: context 'nosuch' not found*");
}

static void fatal_error_of_a_creation(void)
{
    ends_with(wrong_name, "*: Parameter 'id' expects an identifier*");
}

int main(int argc, char **argv)
{
    alarm(120);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(qemu_init_main_loop(), ==, 0);
#define ADD(name) g_test_add_func("/2013/" #name, name)
    ADD(request_completes_on_the_loop);
    ADD(cancel_takes_back_or_waits);
    ADD(programs_own_request);
    ADD(poll_blocks_without_busy_handlers);
    ADD(fatal_error_of_a_search);
    ADD(fatal_error_of_a_creation);
    return g_test_run();
}
