/*
 * The launcher: an app image's entrypoint, at /cnb/lifecycle/launcher and behind /cnb/process/<type>.
 *
 * It applies the layers' environment rules, runs the programs in exec.d, and becomes the process, as
 * "Launch" in the buildpack specification and "launcher" in the platform specification say. It is C
 * and static because a run image need hold nothing at all, and because every start of every app
 * waits for it. It frees nothing: it lives for a millisecond.
 *
 * What it knows of the image is in <layers>/config/launch, which the export writes: records of words
 * that each end with a NUL.
 *     buildpack <its folder below layers> <1 if user arguments replace the process's own, else 0>
 *     process <type> <the buildpack's number> <1 if direct, else 0> <working directory>
 *             <count> <exec-env>... <count> <command>... <count> <args>...
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { UNSUPPORTED_PLATFORM = 11, LAUNCH_FAILED = 82, OLDEST_API = 7, NEWEST_API = 15 };

typedef struct {
    char **items; /* ends with a NULL */
    size_t count;
} List;

typedef struct {
    char *type, *working_dir;
    int direct, replaces_args;
    List exec_envs, command, args;
} Process;

static List environment, buildpacks;
static const char *layers_dir, *app_dir;

/* -- small things ------------------------------------------------------------------------------- */

static void fail(int code, const char *format, ...)
{
    va_list rest;

    va_start(rest, format);
    fputs("launcher: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    exit(code);
}

static void *checked(void *memory)
{
    if (!memory)
        fail(LAUNCH_FAILED, "out of memory");
    return memory;
}

static char *text(const char *format, ...)
{
    va_list rest;
    char *made;

    va_start(rest, format);
    if (vasprintf(&made, format, rest) < 0)
        fail(LAUNCH_FAILED, "out of memory");
    va_end(rest);
    return made;
}

static void add(List *list, char *item)
{
    list->items = checked(realloc(list->items, (list->count + 2) * sizeof(char *)));
    list->items[list->count++] = item;
    list->items[list->count] = NULL;
}

/* All that can be read, with a NUL behind it. */
static char *read_all(int fd, size_t *size)
{
    size_t used = 0, room = 4096;
    char *data = checked(malloc(room));

    for (;;) {
        ssize_t got = read(fd, data + used, room - used - 1);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return NULL;
        if (!got)
            break;
        used += got;
        if (room - used < 2)
            data = checked(realloc(data, room *= 2));
    }
    data[used] = 0;
    if (size)
        *size = used;
    return data;
}

static char *read_file(const char *path, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *data;

    if (fd < 0)
        return NULL;
    data = read_all(fd, size);
    close(fd);
    return data;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int is_folder(const char *path)
{
    struct stat status;

    return !stat(path, &status) && S_ISDIR(status.st_mode);
}

/* The names in a folder by byte order: its folders or all else, links followed. */
static List names(const char *folder, int folders)
{
    List found = {0};
    struct dirent *entry;
    DIR *dir = opendir(folder);

    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")
            && is_folder(text("%s/%s", folder, entry->d_name)) == folders)
            add(&found, checked(strdup(entry->d_name)));
    if (dir)
        closedir(dir);
    if (found.count)
        qsort(found.items, found.count, sizeof(char *), compare);
    return found;
}

/* -- the environment ---------------------------------------------------------------------------- */

static char **find(const char *name, size_t length)
{
    for (size_t i = 0; i < environment.count; i++)
        if (!strncmp(environment.items[i], name, length) && environment.items[i][length] == '=')
            return &environment.items[i];
    return NULL;
}

static const char *get(const char *name)
{
    char **found = find(name, strlen(name));

    return found ? *found + strlen(name) + 1 : "";
}

static void set(const char *name, const char *value)
{
    char **found = find(name, strlen(name)), *item = text("%s=%s", name, value);

    if (found)
        *found = item;
    else
        add(&environment, item);
}

static void prepend(const char *name, const char *value, const char *delimiter)
{
    const char *old = get(name);

    set(name, *old ? text("%s%s%s", value, delimiter, old) : value);
}

/* What was set for the launcher alone does not reach the app. */
static void inherit(char **given)
{
    static const char *const own[] = {"CNB_LAYERS_DIR", "CNB_APP_DIR", "CNB_PROCESS_TYPE",
                                      "CNB_PLATFORM_API", "CNB_DEPRECATION_MODE",
                                      "SHIPWAY_PROCESS_TYPE"};
    char *path, *part, *kept = NULL;

    for (; *given; given++) {
        size_t length = strcspn(*given, "="), i;

        for (i = 0; i < sizeof own / sizeof *own; i++)
            if (length == strlen(own[i]) && !strncmp(*given, own[i], length))
                break;
        if (i == sizeof own / sizeof *own)
            add(&environment, *given);
    }
    if (!find("PATH", 4))
        return;
    path = checked(strdup(get("PATH")));
    while ((part = strsep(&path, ":")))
        if (strcmp(part, "/cnb/process") && strcmp(part, "/cnb/lifecycle"))
            kept = kept ? text("%s:%s", kept, part) : part;
    set("PATH", kept ? kept : "");
}

static void add_root(const char *layer)
{
    char *bin = text("%s/bin", layer), *lib = text("%s/lib", layer);

    if (!access(bin, F_OK))
        prepend("PATH", bin, ":");
    if (!access(lib, F_OK))
        prepend("LD_LIBRARY_PATH", lib, ":");
}

/* The environment modification rules: a file's name up to the first period, and an action. */
static void add_env_dir(const char *folder)
{
    List files = names(folder, 0);

    for (size_t i = 0; i < files.count; i++) {
        char *name = files.items[i], *value = read_file(text("%s/%s", folder, name), NULL);
        char *dot = strchr(name, '.'), *action = dot ? dot + 1 : "override", *delimiter;

        if (!value)
            fail(LAUNCH_FAILED, "%s/%s: %s", folder, name, strerror(errno));
        if (dot)
            *dot = 0;
        delimiter = read_file(text("%s/%s.delim", folder, name), NULL);
        if (!strcmp(action, "override") || (!strcmp(action, "default") && !*get(name)))
            set(name, value);
        else if (!strcmp(action, "prepend"))
            prepend(name, value, delimiter ? delimiter : "");
        else if (!strcmp(action, "append"))
            set(name, *get(name) ? text("%s%s%s", get(name), delimiter ? delimiter : "", value)
                                 : value);
    }
}

/* -- exec.d: TOML of strings on file descriptor 3 ----------------------------------------------- */

static const char *program; /* the one whose output is read */

static void malformed(const char *what)
{
    fail(LAUNCH_FAILED, "%s wrote no TOML of strings: %s", program, what);
}

static char *escape(char *in, char **out)
{
    static const char plain[] = "b\bt\tn\nf\fr\re\033\"\"\\\\";
    int digits = *in == 'x' ? 2 : *in == 'u' ? 4 : *in == 'U' ? 8 : 0;
    unsigned long code;
    char hex[9] = {0};

    for (const char *pair = plain; !digits && *pair; pair += 2)
        if (*in == *pair) {
            *(*out)++ = pair[1];
            return in + 1;
        }
    if (!digits || strspn(in + 1, "0123456789abcdefABCDEF") < (size_t)digits)
        malformed("an unknown escape");
    memcpy(hex, in + 1, digits);
    code = strtoul(hex, NULL, 16);
    if (!code || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        malformed("an escape that is no character");
    if (code < 0x80)
        *(*out)++ = code;
    else {
        int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;

        *(*out)++ = (0xff & ~(0xff >> (more + 1))) | (code >> (6 * more));
        while (more--)
            *(*out)++ = 0x80 | ((code >> (6 * more)) & 0x3f);
    }
    return in + 1 + digits;
}

/* Read a string in any of the four forms from *in, and move *in behind it. */
static char *string(char **in, int may_be_long)
{
    char quote = **in, *at = *in + 1, *made = checked(malloc(strlen(*in) + 1)), *out = made;
    int is_long = may_be_long && at[0] == quote && at[1] == quote;

    if (is_long) {
        at += 2;
        at += *at == '\r' && at[1] == '\n';
        at += *at == '\n';
    }
    for (;; ) {
        if (!*at || (*at == '\n' && !is_long))
            malformed("a string without an end");
        if (*at == quote && (!is_long || (at[1] == quote && at[2] == quote && at[3] != quote)))
            break;
        if (*at == '\\' && quote == '"') {
            size_t blank = strspn(at + 1, " \t\r");

            if (is_long && at[1 + blank] == '\n')
                at += 1 + strspn(at + 1, " \t\r\n");
            else
                at = escape(at + 1, &out);
        } else
            *out++ = *at++;
    }
    *out = 0;
    *in = at + (is_long ? 3 : 1);
    return made;
}

static void take_toml(char *at)
{
    static const char bare[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

    for (;;) {
        char *name;

        at += strspn(at, " \t\r\n");
        if (*at == '#')
            at += strcspn(at, "\n");
        else if (!*at)
            return;
        else {
            if (*at == '"' || *at == '\'')
                name = string(&at, 0);
            else {
                name = checked(strndup(at, strspn(at, bare)));
                at += strlen(name);
            }
            at += strspn(at, " \t");
            if (!*name || strchr(name, '=') || *at++ != '=')
                malformed("expected NAME = \"value\"");
            at += strspn(at, " \t");
            if (*at != '"' && *at != '\'')
                malformed("a value that is no string");
            set(name, string(&at, 1));
            at += strspn(at, " \t\r");
            if (*at && *at != '\n' && *at != '#')
                malformed("something behind a value");
        }
    }
}

static void run_exec_d(const char *folder)
{
    List files = names(folder, 0);

    for (size_t i = 0; i < files.count; i++) {
        char *output;
        size_t size;
        int ends[2], status;
        pid_t child;

        program = text("%s/%s", folder, files.items[i]);
        if (pipe2(ends, O_CLOEXEC) || (child = fork()) < 0)
            fail(LAUNCH_FAILED, "%s cannot be run: %s", program, strerror(errno));
        if (!child) {
            char *argv[] = {(char *)program, NULL};

            if (ends[1] == 3)
                fcntl(3, F_SETFD, 0);
            else
                dup2(ends[1], 3);
            execve(program, argv, environment.items);
            fail(LAUNCH_FAILED, "%s cannot be run: %s", program, strerror(errno));
        }
        close(ends[1]);
        output = read_all(ends[0], &size);
        close(ends[0]);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        if (status)
            fail(LAUNCH_FAILED, "%s failed (%s %d)", program,
                 WIFEXITED(status) ? "exit" : "signal",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        if (!output || strlen(output) != size)
            malformed("a NUL");
        take_toml(output);
    }
}

/* -- what the image holds ----------------------------------------------------------------------- */

static char *word(char **at, char *end)
{
    char *found = *at;

    if (found >= end)
        fail(LAUNCH_FAILED, "%s/config/launch is cut off", layers_dir);
    *at += strlen(found) + 1;
    return found;
}

static List words(char **at, char *end)
{
    List found = {0};

    for (int count = atoi(word(at, end)); count > 0; count--)
        add(&found, word(at, end));
    return found;
}

static int applies(const Process *process)
{
    const char *wanted = *get("CNB_EXEC_ENV") ? get("CNB_EXEC_ENV") : "production";

    for (size_t i = 0; i < process->exec_envs.count; i++)
        if (!strcmp(process->exec_envs.items[i], "*") || !strcmp(process->exec_envs.items[i], wanted))
            return 1;
    return !process->exec_envs.count;
}

/* Fill `buildpacks`; give the process of that type, or one without a type. */
static Process read_image(const char *type)
{
    Process found = {0};
    List replaces = {0};
    size_t size;
    char *at = read_file(text("%s/config/launch", layers_dir), &size), *end = at + size;

    if (!at)
        fail(LAUNCH_FAILED, "%s/config/launch: %s", layers_dir, strerror(errno));
    while (at < end)
        if (!strcmp(word(&at, end), "buildpack")) {
            add(&buildpacks, word(&at, end));
            add(&replaces, word(&at, end));
        } else {
            Process each = {.type = word(&at, end)};
            size_t owner = strtoul(word(&at, end), NULL, 10);

            each.replaces_args = owner < replaces.count && *replaces.items[owner] == '1';
            each.direct = *word(&at, end) == '1';
            each.working_dir = word(&at, end);
            each.exec_envs = words(&at, end);
            each.command = words(&at, end);
            each.args = words(&at, end);
            if (!strcmp(each.type, type) && applies(&each))
                found = each;
        }
    return found;
}

/* What to start: the process with the user's arguments, or the user's own command. */
static Process choose(const char *type, char **user)
{
    Process process = read_image(type);
    List args = {0};

    if (!process.type) {
        if (!*user)
            fail(LAUNCH_FAILED, "when there is no default process a command is required");
        if ((process.direct = !strcmp(*user, "--") && user[1]))
            user++;
        process.working_dir = (char *)app_dir;
        add(&process.command, *user++);
        while (*user)
            add(&process.args, *user++);
        return process;
    }
    for (size_t i = 1; i < process.command.count; i++)
        add(&args, process.command.items[i]);
    if (!*user || !process.replaces_args)
        for (size_t i = 0; i < process.args.count; i++)
            add(&args, process.args.items[i]);
    while (*user)
        add(&args, *user++);
    process.command.count = process.command.count ? 1 : 0;
    process.args = args;
    return process;
}

/* -- becoming the process ----------------------------------------------------------------------- */

static char *located(char *name)
{
    char *path = checked(strdup(get("PATH"))), *folder;

    if (strchr(name, '/'))
        return name;
    while ((folder = strsep(&path, ":"))) {
        char *candidate = text("%s/%s", *folder ? folder : ".", name);

        if (!access(candidate, X_OK) && !is_folder(candidate))
            return candidate;
    }
    fail(LAUNCH_FAILED, "there is no program %s in PATH", name);
    return NULL;
}

static void become(char *path, char **argv)
{
    execve(path, argv, environment.items);
    fail(LAUNCH_FAILED, "%s cannot be run: %s", path, strerror(errno));
}

static void change_to(const char *folder)
{
    if (chdir(folder))
        fail(LAUNCH_FAILED, "cannot change to %s: %s", folder, strerror(errno));
}

static void start_direct(const Process *process)
{
    List argv = {0};
    char *path;

    if (!process->command.count)
        fail(LAUNCH_FAILED, "the process %s has no command", process->type);
    path = located(process->command.items[0]);
    add(&argv, process->command.items[0]);
    for (size_t i = 0; i < process->args.count; i++)
        add(&argv, process->args.items[i]);
    change_to(process->working_dir);
    become(path, argv.items);
}

/* Quoted for a shell, with an end of line behind it. */
static char *sourced(const char *script, const char *verb, const char *path)
{
    char *made = text("%s%s '", script, verb), *copy = checked(strdup(path)), *part;

    for (int first = 1; (part = strsep(&copy, "'")); first = 0)
        made = text("%s%s%s", made, first ? "" : "'\\''", part);
    return text("%s'\n", made);
}

static void each_layer(void (*action)(const char *layer, const char *type, void *to),
                       const char *type, void *to)
{
    for (size_t i = 0; i < buildpacks.count; i++) {
        char *folder = text("%s/%s", layers_dir, buildpacks.items[i]);
        List found = names(folder, 1);

        for (size_t j = 0; j < found.count; j++)
            action(text("%s/%s", folder, found.items[j]), type, to);
    }
}

static void add_profiles(const char *layer, const char *type, void *to)
{
    char *folders[] = {text("%s/profile.d", layer), text("%s/profile.d/%s", layer, type)};

    for (int i = 0; i < (*type ? 2 : 1); i++) {
        List files = names(folders[i], 0);

        for (size_t j = 0; j < files.count; j++)
            *(char **)to =
                sourced(*(char **)to, "source", text("%s/%s", folders[i], files.items[j]));
    }
}

/* Profile scripts, then the command: a script by itself, or words that the shell fills in. */
static void start_in_shell(const Process *process, const char *self, const char *type)
{
    char *script = "";
    List argv = {0};

    each_layer(add_profiles, type, &script);
    if (!access(".profile", F_OK) && !is_folder(".profile"))
        script = text("%ssource .profile\n", script);
    add(&argv, "bash");
    add(&argv, "-c");
    if (!process->args.count && !*script) {
        change_to(process->working_dir);
        add(&argv, process->command.items[0]);
    } else {
        script = sourced(script, "cd", process->working_dir);
        add(&argv, text("%s%s", script,
                        process->args.count
                            ? "words=()\nfor word; do words+=(\"$(eval \"printf %s \\\"$word\\\"\")\"); "
                              "done\nexec \"${words[@]}\""
                            : "exec bash -c \"$1\""));
        add(&argv, (char *)self);
        add(&argv, process->command.items[0]);
        for (size_t i = 0; i < process->args.count; i++)
            add(&argv, process->args.items[i]);
    }
    become("/bin/bash", argv.items);
}

/* -- the whole ---------------------------------------------------------------------------------- */

static void add_layer_env(const char *layer, const char *type)
{
    add_env_dir(text("%s/env", layer));
    add_env_dir(text("%s/env.launch", layer));
    if (*type)
        add_env_dir(text("%s/env.launch/%s", layer, type));
}

/* Buildpack by buildpack: first the folders of all its layers, then their files. */
static void apply_layers(const char *type)
{
    for (size_t i = 0; i < buildpacks.count; i++) {
        char *folder = text("%s/%s", layers_dir, buildpacks.items[i]);
        List found = names(folder, 1);

        for (size_t j = 0; j < found.count; j++)
            add_root(text("%s/%s", folder, found.items[j]));
        for (size_t j = 0; j < found.count; j++)
            add_layer_env(text("%s/%s", folder, found.items[j]), type);
    }
}

static void run_layer_exec_d(const char *layer, const char *type, void *to)
{
    (void)to;
    run_exec_d(text("%s/exec.d", layer));
    if (*type)
        run_exec_d(text("%s/exec.d/%s", layer, type));
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value && *value ? value : otherwise;
}

static void check_platform(const char *api)
{
    char *rest;
    long minor = strncmp(api, "0.", 2) ? -1 : strtol(api + 2, &rest, 10);

    if (minor < OLDEST_API || minor > NEWEST_API || *rest)
        fail(UNSUPPORTED_PLATFORM, "the platform API %s is not within 0.%d and 0.%d", api,
             OLDEST_API, NEWEST_API);
}

int main(int argc, char **argv)
{
    char *slash = argc ? strrchr(argv[0], '/') : NULL;
    const char *type = slash ? slash + 1 : argc ? argv[0] : "";
    Process process;

    check_platform(setting("CNB_PLATFORM_API", "0.15"));
    layers_dir = setting("CNB_LAYERS_DIR", "/layers");
    app_dir = setting("CNB_APP_DIR", "/workspace");
    inherit(environ);
    process = choose(type, argv + (argc > 0));
    /* Shipway starts commands of its own that are to see a process type's environment. */
    type = process.type ? process.type : setting("SHIPWAY_PROCESS_TYPE", "");
    change_to(app_dir);
    apply_layers(type);
    each_layer(run_layer_exec_d, type, NULL);
    if (process.direct)
        start_direct(&process);
    start_in_shell(&process, argc ? argv[0] : "launcher", type);
}
