/* Event notifiers: signalled, watched, and polled before the loop sleeps. */
#include "support.h"

static void notifier_read(gpointer data)
{
    Probe *probe = data;

    g_assert_true(qcontext_notifier_test_and_clear(probe->act_data));
    probe_call(data);
}

static void test_notifier(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    QContextNotifier notifier = { 0 }, copy;
    Probe probe = { 0 };
    QContextFdOps ops = { .read = notifier_read };

    g_assert_false(qcontext_notifier_set(&notifier));
    g_assert_cmpint(qcontext_notifier_get_fd(&notifier), ==, -1);
    qcontext_notifier_cleanup(&notifier);
    g_assert_true(qcontext_notifier_init(&notifier, TRUE, NULL));
    copy = notifier;
    g_assert_true(qcontext_notifier_test_and_clear(&copy));
    g_assert_false(qcontext_notifier_test_and_clear(&notifier));
    probe.act_data = &notifier;
    int fd = qcontext_notifier_get_fd(&notifier);
    g_assert_cmpint(qcontext_notifier_get_wfd(&notifier), >=, 0);
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, &ops, &probe, probe_destroy, NULL));
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_true(qcontext_notifier_set(&notifier));
    g_assert_true(qcontext_notifier_set(&copy));
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    ops.flags = 64;
    assert_misuse("*flags*", qcontext_aio_set_fd_handler(aio, fd, &ops, &probe, NULL, NULL));
    g_assert_true(qcontext_aio_remove_fd(aio, fd));
    g_assert_false(qcontext_aio_remove_fd(aio, fd));
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(probe.destroyed, ==, 1);
    ops.flags = QCONTEXT_FD_EDGE_TRIGGERED;
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, &ops, &probe, probe_destroy, NULL));
    g_assert_true(qcontext_aio_remove_fd_sync(aio, fd, NULL));
    g_assert_cmpint(probe.destroyed, ==, 2);
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, NULL, NULL, NULL, NULL));
    qcontext_notifier_cleanup(&notifier);
    qcontext_notifier_cleanup(&notifier);
    qcontext_notifier_init_fd(&notifier, dup(1));
    qcontext_notifier_cleanup(&notifier);
    qcontext_aio_unref(aio);
}

typedef struct {
    QContextNotifier notifier;
    gboolean found;
    gint reads, readies, begins, ends, destroyed;
} PollTest;

static void poll_read(gpointer data)
{
    PollTest *test = data;

    g_assert_true(qcontext_notifier_test_and_clear(&test->notifier));
    test->reads++;
}

static gboolean poll_look(gpointer data)
{
    return ((PollTest *)data)->found;
}

static void poll_ready(gpointer data)
{
    PollTest *test = data;

    test->found = FALSE;
    test->readies++;
}

static void poll_begin(gpointer data)
{
    ((PollTest *)data)->begins++;
}

static void poll_end(gpointer data)
{
    ((PollTest *)data)->ends++;
}

static void poll_destroy(gpointer data)
{
    ((PollTest *)data)->destroyed++;
}

static void test_notifier_poll_cbs(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    PollTest test = { 0 }, other = { 0 };
    QContextFdOps ops = { .read = poll_read, .io_poll = poll_look, .io_poll_ready = poll_ready };
    GError *error = NULL;

    g_assert_false(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, poll_begin, poll_end, &test, NULL, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_true(qcontext_notifier_init(&test.notifier, TRUE, NULL));
    g_assert_false(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, poll_begin, poll_end, &test, poll_destroy,
                                                      &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_cmpint(test.destroyed, ==, 0);
    int fd = qcontext_notifier_get_fd(&test.notifier);
    g_assert_true(qcontext_aio_set_poll_params(aio, G_MAXINT64, 2, 2, NULL));
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, &ops, &test, NULL, NULL));
    g_assert_true(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, poll_begin, poll_end, &test, poll_destroy,
                                                     &error));
    /* A first event makes it worth asking, a second wait makes polling worth its time. */
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    qcontext_notifier_set(&test.notifier);
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.reads, ==, 2);
    g_assert_cmpint(test.begins + test.ends, ==, 0);
    test.found = TRUE;
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.readies, ==, 1);
    g_assert_cmpint(test.begins, ==, 1);
    g_assert_cmpint(test.ends, ==, 0);
    /* Nothing found by polling: off before the wait. */
    qcontext_notifier_set(&test.notifier);
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.ends, ==, 1);
    g_assert_cmpint(test.reads, ==, 3);
    /* Replaced: the old ones go, the new ones are called. */
    g_assert_true(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, poll_begin, NULL, &other, poll_destroy, NULL));
    test.found = TRUE;
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.destroyed, ==, 1);
    g_assert_cmpint(test.begins, ==, 1);
    g_assert_cmpint(other.begins, ==, 1);
    g_assert_cmpint(other.destroyed, ==, 0);
    g_assert_true(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, NULL, NULL, NULL, NULL, NULL));
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(other.destroyed, ==, 1);
    /* They go with their handler. */
    g_assert_true(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, NULL, poll_end, &other, poll_destroy, NULL));
    g_assert_true(qcontext_aio_remove_fd(aio, fd));
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(other.destroyed, ==, 2);
    g_assert_false(qcontext_aio_set_notifier_poll_cbs(aio, &test.notifier, NULL, NULL, NULL, NULL, NULL));
    qcontext_notifier_cleanup(&test.notifier);
    qcontext_aio_unref(aio);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio/notifier", test_notifier);
    g_test_add_func("/aio/notifier-poll-cbs", test_notifier_poll_cbs);
    return g_test_run();
}
