/* Bottom halves of AioContexts: once, again, deleted, left behind, from other threads, and run alone. */
#include "support.h"
#include <errno.h>
#include <malloc.h>

typedef struct {
    QContextBh *bh;
    Probe probe;
    int again;
} BhTest;

static void bh_again(gpointer data)
{
    BhTest *test = data;

    test->probe.calls++;
    if (test->again-- > 0) {
        qcontext_bh_schedule(test->bh);
    }
}

static void bh_delete_self(gpointer data)
{
    BhTest *test = data;
    GError *error = NULL;

    test->probe.calls++;
    g_assert_false(qcontext_bh_delete_sync(test->bh, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_error_free(error);
    qcontext_bh_delete(test->bh);
}

static void bh_destroy(gpointer data)
{
    probe_destroy(&((BhTest *)data)->probe);
}

static void test_bh(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    BhTest test = { 0 };

    test.bh = qcontext_bh_new(aio, "again", bh_again, &test, bh_destroy);
    qcontext_bh_schedule(test.bh);
    qcontext_bh_schedule(test.bh);
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(test.probe.calls, ==, 1);
    test.again = 3;
    qcontext_bh_schedule(test.bh);
    for (int i = 1; i <= 4; i++) {
        g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
        g_assert_cmpint(test.probe.calls, ==, 1 + i);
    }
    qcontext_bh_schedule(test.bh);
    qcontext_bh_cancel(test.bh);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    qcontext_bh_schedule_idle(test.bh);
    g_assert_false(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.probe.calls, ==, 6);
    qcontext_bh_schedule(test.bh);
    qcontext_bh_delete(test.bh);
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(test.probe.calls, ==, 6);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
    qcontext_aio_unref(aio);
}

static void test_bh_delete_inside(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    BhTest test = { 0 };

    test.bh = qcontext_bh_new(aio, NULL, bh_delete_self, &test, bh_destroy);
    qcontext_bh_schedule(test.bh);
    g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(test.probe.calls, ==, 1);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
    qcontext_aio_unref(aio);
}

static void test_bh_left_behind(void)
{
    /* A bottom half that is pending when its AioContext goes does not run, and its data is released. */
    QContextAio *aio = qcontext_aio_new(NULL);
    Probe oneshot = { 0 };
    BhTest test = { 0 };

    test.bh = qcontext_bh_new(aio, "left", bh_again, &test, bh_destroy);
    qcontext_bh_schedule(test.bh);
    g_assert_true(qcontext_bh_oneshot(aio, "left", probe_call, &oneshot, probe_destroy));
    qcontext_aio_unref(aio);
    g_assert_cmpint(oneshot.calls, ==, 0);
    g_assert_cmpint(oneshot.destroyed, ==, 1);
    /* Nor is it deleted: it is gone. */
    g_assert_cmpint(test.probe.calls, ==, 0);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
}

/* Bytes that the program has allocated. */
static size_t in_use(void)
{
    return mallinfo2().uordblks;
}

enum { LEFT = 1000 };

static void leave_some(QContextAio *aio)
{
    for (int i = 0; i < LEFT; i++) {
        QContextBh *bh = qcontext_bh_new(aio, "left", nothing, NULL, NULL);

        if (i % 2) {
            qcontext_bh_schedule(bh);
        }
    }
    qcontext_aio_unref(aio);
}

static void leave_to_the_aio(void)
{
    leave_some(qcontext_aio_new(NULL));
}

static void leave_to_a_stop(gboolean threaded, gboolean attached)
{
    QContext *ctx = qcontext_new("bh-left", threaded, NULL);
    QContextAio *aio = attached ? qcontext_aio_new(NULL) : qcontext_get_aio(ctx, NULL);

    if (attached) {
        g_assert_true(qcontext_aio_attach(aio, ctx, NULL, NULL));
    }
    leave_some(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void leave_everywhere(void)
{
    leave_to_the_aio();
    for (int i = 0; i < 4; i++) {
        leave_to_a_stop(i & 1, i >> 1);
    }
}

/* Memory of bottom halves that are not deleted does not grow. The tools for memory, which have an allocator of their own, look for
 * what is lost. */
static void test_bh_left_behind_is_freed(void)
{
    leave_everywhere();
    size_t before = in_use();

    for (int i = 0; i < 4; i++) {
        leave_everywhere();
    }
    g_assert_cmpuint(in_use(), <, before + LEFT * sizeof(void *));
}

/* A context that stops inside a callback of another. */
static void stop_other(gpointer data)
{
    g_assert_true(qcontext_stop(data, NULL));
}

static void test_bh_left_behind_is_there_until_the_context_goes(void)
{
    QContext *outer = qcontext_new("bh-outer", FALSE, NULL), *ctx = qcontext_new("bh-inner", FALSE, NULL);
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    QContextBh *deleted = qcontext_bh_new(aio, "deleted", nothing, NULL, NULL);

    g_assert_nonnull(qcontext_bh_new(aio, "left", nothing, NULL, NULL));
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_invoke(outer, stop_other, ctx, NULL, NULL));
    while (qcontext_iterate(outer, FALSE, NULL)) {
    }
    qcontext_bh_schedule(deleted);
    qcontext_bh_delete(deleted);
    qcontext_unref(ctx);
    qcontext_unref(outer);
}

static void linger(gpointer data)
{
    (void)data;
    g_usleep(20000);
}

static void test_bh_delete_sync_waits(void)
{
    QContext *ctx = new_threaded("bh-sync");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);

    for (int i = 0; i < 10; i++) {
        Probe probe = { .act = linger };
        QContextBh *bh = qcontext_bh_new(aio, "slow", probe_call, &probe, probe_destroy);

        qcontext_bh_schedule(bh);
        while (!g_atomic_pointer_get(&probe.call_thread)) {
            g_usleep(10);
        }
        g_assert_true(qcontext_bh_delete_sync(bh, NULL));
        g_assert_cmpint(g_atomic_int_get(&probe.calls), ==, 1);
        wait_for(&probe.destroyed, 1);
        g_assert_true(probe.destroy_thread == probe.call_thread);
    }
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static gpointer schedule_many(gpointer bh)
{
    for (int i = 0; i < 10000; i++) {
        qcontext_bh_schedule(bh);
    }
    return NULL;
}

static void test_bh_from_threads(void)
{
    QContext *ctx = new_threaded("bh-threads");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "many", probe_call, &probe, probe_destroy);
    GThread *threads[4];
    gint before;

    for (int i = 0; i < 4; i++) {
        threads[i] = g_thread_new("scheduler", schedule_many, bh);
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    settle(ctx);
    before = probe.calls;
    g_assert_cmpint(before, >, 0);
    qcontext_bh_schedule(bh);
    wait_for(&probe.calls, before + 1);
    qcontext_bh_delete(bh);
    wait_for(&probe.destroyed, 1);
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_bh_poll(void)
{
    /* Bottom halves run, and nothing else. */
    QContextAio *aio = qcontext_aio_new(NULL);
    QContextFdOps ops = { .read = probe_call };
    Probe urgent = { 0 }, idle = { 0 }, timed = { 0 }, watched = { 0 };
    GError *error = NULL;
    int fds[2];

    make_pipe(fds);
    write_byte(fds[1]);
    QContextBh *bh = qcontext_bh_new(aio, "urgent", probe_call, &urgent, probe_destroy);
    QContextBh *lazy = qcontext_bh_new(aio, "idle", probe_call, &idle, probe_destroy);
    QContextTimer *timer = qcontext_timer_new(aio, QCONTEXT_CLOCK_REALTIME, 1, probe_call, &timed, NULL);
    g_assert_true(qcontext_aio_set_fd_handler(aio, fds[0], &ops, &watched, NULL, NULL));
    qcontext_timer_mod_ns(timer, 0);
    g_assert_false(qcontext_aio_bh_poll(aio, &error));
    qcontext_bh_schedule(bh);
    g_assert_true(qcontext_aio_bh_poll(aio, &error));
    g_assert_no_error(error);
    g_assert_false(qcontext_aio_bh_poll(aio, NULL));
    qcontext_bh_schedule_idle(lazy);
    g_assert_false(qcontext_aio_bh_poll(aio, NULL));
    g_assert_cmpint(urgent.calls, ==, 1);
    g_assert_cmpint(idle.calls, ==, 1);
    g_assert_cmpint(timed.calls + watched.calls, ==, 0);
    /* One that is scheduled in its own callback runs in the next pass. */
    BhTest again = { .again = 1 };
    again.bh = qcontext_bh_new(aio, "again", bh_again, &again, bh_destroy);
    qcontext_bh_schedule(again.bh);
    g_assert_true(qcontext_aio_bh_poll(aio, NULL));
    g_assert_cmpint(again.probe.calls, ==, 1);
    g_assert_true(qcontext_aio_bh_poll(aio, NULL));
    g_assert_cmpint(again.probe.calls, ==, 2);
    qcontext_bh_delete(again.bh);
    qcontext_bh_delete(bh);
    g_assert_false(qcontext_aio_bh_poll(aio, NULL));
    g_assert_cmpint(again.probe.destroyed + urgent.destroyed, ==, 2);
    g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(timed.calls, ==, 1);
    g_assert_cmpint(watched.calls, ==, 1);
    g_assert_true(qcontext_aio_remove_fd(aio, fds[0]));
    qcontext_timer_free(timer);
    qcontext_bh_delete(lazy);
    qcontext_aio_unref(aio);
    close(fds[0]);
    close(fds[1]);
}

static void test_bh_poll_leaves_neighbours_alone(void)
{
    QContext *ctx = qcontext_new("bh-poll", FALSE, NULL);
    QContextAio *mine = qcontext_aio_new(NULL), *other = qcontext_aio_new(NULL);
    Probe own = { 0 }, foreign = { 0 };

    g_assert_true(qcontext_aio_attach(mine, ctx, NULL, NULL) && qcontext_aio_attach(other, ctx, NULL, NULL));
    g_assert_true(qcontext_bh_oneshot(other, "foreign", probe_call, &foreign, probe_destroy));
    g_assert_true(qcontext_bh_oneshot(mine, "own", probe_call, &own, probe_destroy));
    g_assert_true(qcontext_aio_bh_poll(mine, NULL));
    g_assert_cmpint(own.destroyed, ==, 1);
    g_assert_cmpint(foreign.calls, ==, 0);
    g_assert_true(qcontext_iterate(ctx, FALSE, NULL));
    g_assert_cmpint(foreign.destroyed, ==, 1);
    qcontext_aio_unref(mine);
    qcontext_aio_unref(other);
    qcontext_unref(ctx);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio/bh", test_bh);
    g_test_add_func("/aio/bh-delete-inside", test_bh_delete_inside);
    g_test_add_func("/aio/bh-left-behind", test_bh_left_behind);
    g_test_add_func("/aio/bh-left-behind-is-freed", test_bh_left_behind_is_freed);
    g_test_add_func("/aio/bh-left-behind-is-there-until-the-context-goes", test_bh_left_behind_is_there_until_the_context_goes);
    g_test_add_func("/aio/bh-delete-sync-waits", test_bh_delete_sync_waits);
    g_test_add_func("/aio/bh-from-threads", test_bh_from_threads);
    g_test_add_func("/aio/bh-poll", test_bh_poll);
    g_test_add_func("/aio/bh-poll-leaves-neighbours-alone", test_bh_poll_leaves_neighbours_alone);
    return g_test_run();
}
