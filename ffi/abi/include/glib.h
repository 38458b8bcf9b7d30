/* The types of GLib as far as qcontext.h names them, so that the description of our interface describes nothing else. */
typedef int gboolean;
typedef int gint;
typedef unsigned int guint;
typedef unsigned int guint32;
typedef unsigned int GQuark;
typedef void *gpointer;
typedef struct _GArray GArray;
typedef struct _GError GError;
typedef struct _GMainContext GMainContext;
typedef struct _GPollFD GPollFD;
typedef struct _GSource GSource;
typedef struct _GVariant GVariant;
typedef void (*GDestroyNotify)(gpointer data);
