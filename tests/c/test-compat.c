/* The main loop, its lock, I/O threads, jobs and fd handlers as code written for QEMU uses them. */
#include "compat-support.h"

static void test_main_loop_wait(void)
{
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    qemu_notify_event();
    g_assert_cmpint(main_loop_wait(true), ==, 1);
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    g_assert_true(qemu_get_current_aio_context() == qemu_get_aio_context());
    g_assert_true(qemu_in_main_thread());
    g_assert_false(qemu_in_iothread());
}

static void bql_user(void *opaque)
{
    /* Runs while the main loop waits without the lock. */
    bql_lock();
    ++*(int *)opaque;
    bql_unlock();
    qemu_notify_event();
}

static void test_bql(void)
{
    int n = 0;
    IOThread *iothread = iothread_create("bql", NULL);

    bql_lock();
    g_assert_true(bql_locked());
    {
        BQL_LOCK_GUARD();
        g_assert_true(bql_locked());
    }
    g_assert_true(bql_locked());
    aio_bh_schedule_oneshot(iothread_get_aio_context(iothread), bql_user, &n);
    while (!n) {
        main_loop_wait(false);
        g_assert_true(bql_locked());
    }
    bql_unlock();
    {
        BQL_LOCK_GUARD();
        g_assert_true(bql_locked());
    }
    g_assert_false(bql_locked());
    iothread_destroy(iothread);
}

static void seen_in_iothread(void *opaque)
{
    g_assert_true(qemu_in_iothread());
    g_assert_false(qemu_in_main_thread());
    *(AioContext **)opaque = qemu_get_current_aio_context();
}

static gpointer plain_thread(gpointer unused)
{
    (void)unused;
    return qemu_get_current_aio_context();
}

static void test_iothread(void)
{
    AioContext *seen = NULL;
    IOThread *iothread = iothread_create("iothread0", NULL);
    g_autofree char *id = iothread_get_id(iothread);

    g_assert_cmpstr(id, ==, "iothread0");
    g_assert_true(iothread_by_id("iothread0") == iothread);
    g_assert_null(iothread_by_id("nosuch"));
    g_assert_nonnull(iothread_get_g_main_context(iothread));
    aio_wait_bh_oneshot(iothread_get_aio_context(iothread), seen_in_iothread, &seen);
    g_assert_true(seen == iothread_get_aio_context(iothread));
    g_assert_false(in_aio_context_home_thread(seen));
    aio_context_set_poll_params(seen, 1000, 3, 4, NULL);
    g_autoptr(GVariant) max = qcontext_get_property(iothread, "poll-max-ns", NULL);
    g_autoptr(GVariant) grow = qcontext_get_property(iothread, "poll-grow", NULL);
    g_autoptr(GVariant) shrink = qcontext_get_property(iothread, "poll-shrink", NULL);
    g_assert_cmpint(g_variant_get_int64(max), ==, 1000);
    g_assert_cmpint(g_variant_get_int64(grow), ==, 3);
    g_assert_cmpint(g_variant_get_int64(shrink), ==, 4);
    Error *err = NULL;
    aio_context_set_poll_params(seen, 2000, -1, 4, &err);
    g_assert_error(err, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_error_free(err);
    g_autoptr(GVariant) same = qcontext_get_property(iothread, "poll-max-ns", NULL);
    g_assert_cmpint(g_variant_get_int64(same), ==, 1000);
    g_assert_null(g_thread_join(g_thread_new("plain", plain_thread, NULL)));
    iothread_destroy(iothread);
}

static int job(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    return 42;
}

static void job_done(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

static int slow_job(void *opaque)
{
    while (!g_atomic_int_get((int *)opaque)) {
        g_usleep(100);
    }
    return 0;
}

static void test_thread_pool(void)
{
    int ran = 0, ret = -1, release = 0, slow = -1, cancelled = -1;
    AioContext *own = aio_context_new(NULL), *before = qemu_get_current_aio_context();

    qemu_set_current_aio_context(own);
    thread_pool_submit_aio(job, &ran, job_done, &ret);
    /* Not before the first wait. */
    g_assert_cmpint(ret, ==, -1);
    while (ret != 42) {
        aio_poll(own, true);
    }
    g_assert_cmpint(ran, ==, 1);
    aio_context_set_thread_pool_params(own, 0, 1, NULL);
    thread_pool_submit_aio(slow_job, &release, job_done, &slow);
    BlockAIOCB *queued = thread_pool_submit_aio(job, &ran, job_done, &cancelled);
    bdrv_aio_cancel(queued);
    g_assert_cmpint(cancelled, ==, -ECANCELED);
    g_assert_cmpint(ran, ==, 1);
    g_atomic_int_set(&release, 1);
    while (slow) {
        aio_poll(own, true);
    }
    qemu_set_current_aio_context(before);
    aio_context_unref(own);
}

typedef struct {
    BlockAIOCB common;
    QEMUBH *bh;
} OwnRequest;

static int own_cancels;

static void own_request_done(void *opaque)
{
    OwnRequest *request = opaque;

    qemu_bh_delete(request->bh);
    request->common.cb(request->common.opaque, -ECANCELED);
    qemu_aio_unref(request);
}

static void own_request_cancel(BlockAIOCB *acb)
{
    OwnRequest *request = (OwnRequest *)acb;

    own_cancels++;
    qemu_bh_schedule(request->bh);
}

static void test_own_requests(void)
{
    static const AIOCBInfo info = { own_request_cancel, sizeof(OwnRequest) };
    int ret = 0;
    OwnRequest *request = qemu_aio_get(&info, NULL, job_done, &ret);

    g_assert_true(request->common.aiocb_info == &info);
    g_assert_null(request->common.bs);
    request->bh = qemu_bh_new(own_request_done, request);
    bdrv_aio_cancel(&request->common);
    g_assert_cmpint(ret, ==, -ECANCELED);
    g_assert_cmpint(own_cancels, ==, 1);
}

static void count_and_kick(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    aio_wait_kick();
}

static void test_waiting(void)
{
    int n = 0;
    IOThread *iothread = iothread_create("waiting", NULL);
    AioContext *aio = iothread_get_aio_context(iothread);

    GLOBAL_STATE_CODE();
    IO_CODE();
    IO_OR_GS_CODE();
    aio_bh_schedule_oneshot(aio, count_and_kick, &n);
    AIO_WAIT_WHILE(aio, !g_atomic_int_get(&n));
    g_assert_cmpint(n, ==, 1);
    aio_bh_schedule_oneshot(aio, count_and_kick, &n);
    AIO_WAIT_WHILE_UNLOCKED(NULL, g_atomic_int_get(&n) < 2);
    g_assert_false(AIO_WAIT_WHILE(aio, false));
    g_assert_cmpint(n, ==, 2);
    iothread_stop(iothread);
    iothread_stop(iothread);
    iothread_destroy(iothread);
}

static void test_cancel_without_waiting(void)
{
    int ran = 0, release = 0, slow = -1, ret = 0;
    AioContext *own = aio_context_new(NULL), *before = qemu_get_current_aio_context();

    qemu_set_current_aio_context(own);
    aio_context_set_thread_pool_params(own, 0, 1, NULL);
    thread_pool_submit_aio(slow_job, &release, job_done, &slow);
    BlockAIOCB *queued = thread_pool_submit_aio(job, &ran, job_done, &ret);
    qemu_aio_ref(queued);
    bdrv_aio_cancel_async(queued);
    /* Not inside the call. */
    g_assert_cmpint(ret, ==, 0);
    while (!ret) {
        aio_poll(own, true);
    }
    g_assert_cmpint(ret, ==, -ECANCELED);
    g_assert_cmpint(ran, ==, 0);
    qemu_aio_unref(queued);
    g_atomic_int_set(&release, 1);
    while (slow) {
        aio_poll(own, true);
    }
    qemu_set_current_aio_context(before);
    aio_context_unref(own);
}

static void read_once(void *opaque)
{
    char byte;

    g_assert_cmpint(read(((int *)opaque)[0], &byte, 1), ==, 1);
    ((int *)opaque)[1]++;
}

static void test_iohandlers(void)
{
    AioContext *iohandlers = iohandler_get_aio_context();
    GSource *source = iohandler_get_g_source();
    int fds[2], state[2] = { -1, 0 };

    g_assert_nonnull(iohandlers);
    g_assert_true(iohandlers != qemu_get_aio_context());
    g_assert_true(iohandlers == iohandler_get_aio_context());
    /* As a main loop of one's own does it; nothing is served twice. */
    g_assert_cmpuint(g_source_attach(source, NULL), !=, 0);
    g_assert_cmpint(pipe(fds), ==, 0);
    state[0] = fds[0];
    qemu_set_fd_handler(fds[0], read_once, NULL, state);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (!state[1]) {
        main_loop_wait(false);
    }
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(state[1], ==, 1);
    /* One table: what one call sets, the other removes. */
    aio_set_fd_handler(iohandlers, fds[0], NULL, NULL, NULL, NULL, NULL);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(state[1], ==, 1);
    aio_set_fd_handler(iohandlers, fds[0], read_once, NULL, NULL, NULL, state);
    while (state[1] < 2) {
        main_loop_wait(false);
    }
    qemu_set_fd_handler(fds[0], NULL, NULL, NULL);
    g_source_destroy(source);
    g_source_unref(source);
    close(fds[0]);
    close(fds[1]);
}

static void test_unwatchable_fd(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    close(fds[0]);
    close(fds[1]);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*qcontext: *");
    g_assert_cmpint(qemu_set_fd_handler(fds[0], read_once, NULL, NULL), ==, -1);
    g_test_assert_expected_messages();
    g_assert_cmpint(qemu_set_fd_handler(fds[0], NULL, NULL, NULL), ==, 0);
}

static void read_pipe(void *opaque)
{
    char byte;

    g_assert_cmpint(read(*(int *)opaque, &byte, 1), ==, 1);
    *(int *)opaque = -1;
}

static void test_fd_handler(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    int fd = fds[0];
    qemu_set_fd_handler(fds[0], read_pipe, NULL, &fd);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (fd >= 0) {
        main_loop_wait(false);
    }
    qemu_set_fd_handler(fds[0], NULL, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    g_test_add_func("/compat/main-loop-wait", test_main_loop_wait);
    g_test_add_func("/compat/bql", test_bql);
    g_test_add_func("/compat/iothread", test_iothread);
    g_test_add_func("/compat/thread-pool", test_thread_pool);
    g_test_add_func("/compat/waiting", test_waiting);
    g_test_add_func("/compat/cancel-without-waiting", test_cancel_without_waiting);
    g_test_add_func("/compat/own-requests", test_own_requests);
    g_test_add_func("/compat/iohandlers", test_iohandlers);
    g_test_add_func("/compat/unwatchable-fd", test_unwatchable_fd);
    g_test_add_func("/compat/fd-handler", test_fd_handler);
    return compat_run();
}
