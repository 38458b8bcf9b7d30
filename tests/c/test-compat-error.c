/* error_abort and error_fatal end the program with the message, whatever function they are given to. */
#include "compat-support.h"
#include <sys/resource.h>

/* No more fds from here on. Returns the place for the error that the test is about. */
static Error **without_fds(bool fatal)
{
    struct rlimit none = { 0, 0 };

    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    return fatal ? &error_fatal : &error_abort;
}

static void new_aio_context(bool fatal)
{
    aio_context_new(without_fds(fatal));
}

static void create_iothread(bool fatal)
{
    iothread_create("t", without_fds(fatal));
}

static void init_main_loop(bool fatal)
{
    qemu_init_main_loop(without_fds(fatal));
}

static void set_poll_params(bool fatal)
{
    aio_context_set_poll_params(ctx, -1, 0, 0, fatal ? &error_fatal : &error_abort);
}

static void set_pool_params(bool fatal)
{
    aio_context_set_thread_pool_params(ctx, 2, 1, fatal ? &error_fatal : &error_abort);
}

static const struct {
    const char *name;
    void (*call)(bool fatal);
    const char *message;
} calls[] = {
    { "aio-context-new", new_aio_context, "*: cannot *(os error 24)*" },
    { "iothread-create", create_iothread, "*: cannot *(os error 24)*" },
    { "init-main-loop", init_main_loop, "*: cannot *(os error 24)*" },
    { "poll-params", set_poll_params, "*: poll-max-ns value must be in range*" },
    { "pool-params", set_pool_params, "*: bad thread-pool-min/thread-pool-max values*" },
};

static void abort_ends_by_a_signal(gconstpointer data)
{
    size_t i = GPOINTER_TO_SIZE(data);

    if (g_test_subprocess()) {
        struct rlimit none = { 0, 0 };

        setrlimit(RLIMIT_CORE, &none);
        calls[i].call(false);
        _exit(0);
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr(calls[i].message);
}

static void end(void)
{
    g_printerr("atexit\n");
}

static void fatal_ends_by_exit(gconstpointer data)
{
    size_t i = GPOINTER_TO_SIZE(data);

    if (g_test_subprocess()) {
        atexit(end);
        calls[i].call(true);
        _exit(0);
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr(calls[i].message);
    /* By exit(1), not by a signal. */
    g_test_trap_assert_stderr("*atexit*");
}

static void other_errors_are_told(void)
{
    if (g_test_subprocess()) {
        Error *err = NULL;

        without_fds(true);
        g_assert_null(aio_context_new(NULL));
        g_assert_null(aio_context_new(&err));
        g_assert_error(err, QCONTEXT_ERROR, QCONTEXT_ERROR_OS);
        g_error_free(err);
        g_assert_cmpint(qemu_init_main_loop(NULL), ==, -EMFILE);
        _exit(0);
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

static void success_changes_nothing(void)
{
    AioContext *aio = aio_context_new(&error_abort);

    aio_context_set_poll_params(aio, 1, 2, 3, &error_fatal);
    aio_context_unref(aio);
    g_assert_null(error_abort);
    g_assert_null(error_fatal);
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
        g_autofree char *aborts = g_strdup_printf("/error/abort/%s", calls[i].name);
        g_autofree char *exits = g_strdup_printf("/error/fatal/%s", calls[i].name);

        g_test_add_data_func(aborts, GSIZE_TO_POINTER(i), abort_ends_by_a_signal);
        g_test_add_data_func(exits, GSIZE_TO_POINTER(i), fatal_ends_by_exit);
    }
    g_test_add_func("/error/other", other_errors_are_told);
    g_test_add_func("/error/success", success_changes_nothing);
    return compat_run();
}
