/* Threads that hold the big lock have the main AioContext, as in QEMU. */
#include "compat-support.h"

typedef struct QemuCond {
    pthread_cond_t cond;
} QemuCond;

static int job(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    return 7;
}

typedef struct {
    int ran, ret;
    AioContext *without, *with, *in_done;
} Submission;

static void job_done(void *opaque, int ret)
{
    Submission *submission = opaque;

    submission->in_done = qemu_get_current_aio_context();
    submission->ret = ret;
}

static gpointer submit_with_lock(gpointer data)
{
    Submission *submission = data;

    submission->without = qemu_get_current_aio_context();
    bql_lock();
    submission->with = qemu_get_current_aio_context();
    g_assert_true(in_aio_context_home_thread(qemu_get_aio_context()));
    g_assert_true(qemu_in_main_thread());
    thread_pool_submit_aio(job, &submission->ran, job_done, submission);
    bql_unlock();
    g_assert_null(qemu_get_current_aio_context());
    return NULL;
}

static void holder_has_the_main_context(void)
{
    Submission submission = { .ret = -1 };
    GThread *thread;

    bql_lock();
    thread = g_thread_new("vcpu", submit_with_lock, &submission);
    while (submission.ret < 0) {
        main_loop_wait(false);
    }
    bql_unlock();
    g_thread_join(thread);
    g_assert_cmpint(submission.ret, ==, 7);
    g_assert_cmpint(submission.ran, ==, 1);
    g_assert_null(submission.without);
    g_assert_true(submission.with == qemu_get_aio_context());
    g_assert_true(submission.in_done == qemu_get_aio_context());
}

static void seen_with_lock(void *opaque)
{
    bql_lock();
    *(AioContext **)opaque = qemu_get_current_aio_context();
    bql_unlock();
}

static void iothread_with_the_lock_keeps_its_own(void)
{
    AioContext *seen = NULL;
    IOThread *iothread = iothread_create("with-lock", NULL);

    aio_wait_bh_oneshot(iothread_get_aio_context(iothread), seen_with_lock, &seen);
    g_assert_true(seen == iothread_get_aio_context(iothread));
    iothread_destroy(iothread);
}

typedef struct {
    QemuCond asked, answered;
    int question, answer;
} Talk;

static gpointer answer_one(gpointer data)
{
    Talk *talk = data;

    bql_lock();
    while (!talk->question) {
        qemu_cond_wait_bql(&talk->asked);
        g_assert_true(bql_locked());
    }
    talk->answer = talk->question + 1;
    pthread_cond_signal(&talk->answered.cond);
    bql_unlock();
    return NULL;
}

static void waiting_for_a_condition_releases_the_lock(void)
{
    Talk talk = { .asked = { PTHREAD_COND_INITIALIZER }, .answered = { PTHREAD_COND_INITIALIZER } };
    GThread *thread = g_thread_new("answers", answer_one, &talk);

    bql_lock();
    talk.question = 41;
    pthread_cond_signal(&talk.asked.cond);
    while (!talk.answer) {
        qemu_cond_wait_bql(&talk.answered);
        g_assert_true(bql_locked());
    }
    g_assert_cmpint(talk.answer, ==, 42);
    bql_unlock();
    g_thread_join(thread);
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    g_test_add_func("/lock/holder-has-the-main-context", holder_has_the_main_context);
    g_test_add_func("/lock/iothread-keeps-its-own", iothread_with_the_lock_keeps_its_own);
    g_test_add_func("/lock/condition", waiting_for_a_condition_releases_the_lock);
    return compat_run();
}
