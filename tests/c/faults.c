/* Mistakes on purpose, one per name, each of which a tool must report: see caught.sh. */
#include "support.h"

/* What the library gave is never freed. */
static void leak(void)
{
    g_assert_nonnull(qcontext_device_opts_parse("virtio-blk,id=disk0", NULL));
}

static void count(gpointer data)
{
    volatile int *place = data;

    *place += 1;
}

/* The user data go before the last callback has been called. */
static void use_after_free(void)
{
    QContext *context = new_threaded("ctx");
    int *data = malloc(sizeof *data);
    /* The compiler, which would see it, is not what is tested. */
    int *volatile kept = data;

    *data = 1;
    free(data);
    g_assert_true(qcontext_invoke_sync(context, count, kept, NULL));
    qcontext_stop(context, NULL);
    qcontext_unref(context);
}

/* A byte more than there is. */
static void overflow(void)
{
    volatile char *place = malloc(4);
    volatile size_t at = 4;

    place[at] = 0;
    free((void *)(uintptr_t)place);
}

static void undefined(void)
{
    volatile int much = G_MAXINT;

    much = much + 1;
}

static int invoked, counted;

/* Relaxed accesses put two threads one after the other without ordering them. */
static void tell(int *flag)
{
    __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
}

static void await(const int *flag)
{
    while (!__atomic_load_n(flag, __ATOMIC_RELAXED)) {
        g_usleep(100);
    }
}

static void count_between(gpointer data)
{
    await(&invoked);
    count(data);
    tell(&counted);
}

/* Both the callback and who queued it change the same, which nothing orders: the callback does it when the invocation has
 * returned, whose locks might. The other one does not do it at the very same time, which ThreadSanitizer may not see. */
static void race(void)
{
    QContext *context = new_threaded("ctx");
    int data = 0;

    g_assert_true(qcontext_invoke(context, count_between, &data, NULL, NULL));
    tell(&invoked);
    await(&counted);
    count(&data);
    g_assert_true(qcontext_stop(context, NULL));
    qcontext_unref(context);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*make)(void);
    } faults[] = {
        { "leak", leak },
        { "use-after-free", use_after_free },
        { "overflow", overflow },
        { "undefined", undefined },
        { "race", race },
        { "none", NULL },
    };

    for (size_t i = 0; argc == 2 && i < G_N_ELEMENTS(faults); i++) {
        if (strcmp(argv[1], faults[i].name) == 0) {
            if (faults[i].make) {
                faults[i].make();
            }
            return 0;
        }
    }
    return 2;
}
