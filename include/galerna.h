/*
 * Galerna: an RDMA-first replication engine.
 *
 * The processes of a group exchange messages. Every member delivers the same messages in the same
 * order. A program makes a configuration (galerna_config_new(), or galerna_config_from_file()),
 * joins the group with its callbacks (galerna_group_join()), and sends (galerna_group_send()). The
 * `deliver` callback receives the messages, and the `view` callback the changes of the membership.
 * A group with a log keeps the messages on disk. A log can also be used without a group
 * (galerna_log_open()). The functions below are in the order of their use.
 *
 * A complete program. Start it twice in one directory, as "hello 1" and "hello 2"; Enter ends it:
 *
 *     #include <galerna.h>
 *     #include <stdio.h>
 *     #include <stdlib.h>
 *
 *     static void check(galerna_result_t result)
 *     {
 *         if (result != GALERNA_OK) {
 *             fprintf(stderr, "%s: %s\n", galerna_result_name(result), galerna_last_error());
 *             exit(1);
 *         }
 *     }
 *
 *     static void deliver(void *context, const galerna_message_t *message)
 *     {
 *         (void)context;
 *         printf("%.*s from member %u\n", (int)message->length, (const char *)message->payload,
 *                (unsigned)message->sender);
 *         fflush(stdout);
 *     }
 *
 *     int main(int argc, char **argv)
 *     {
 *         galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
 *         galerna_config_t *config;
 *         galerna_group_t *group;
 *         uint64_t ticket;
 *         callbacks.deliver = deliver;
 *         check(galerna_config_new("hello", &config));
 *         check(galerna_config_set(config, "fabric", "shm"));
 *         check(galerna_config_add_member(config, 1, "unix:hello-1.sock"));
 *         check(galerna_config_add_member(config, 2, "unix:hello-2.sock"));
 *         check(galerna_config_set_member(config, argc > 1 ? (uint32_t)atoi(argv[1]) : 1));
 *         check(galerna_group_join(config, &callbacks, GALERNA_DRIVE_THREAD, &group));
 *         galerna_config_free(config);
 *         check(galerna_group_send(group, 0, GALERNA_MODE_SAFE, "hello", 5, GALERNA_WAIT_FOREVER, &ticket));
 *         check(galerna_group_wait(group, 0, ticket, GALERNA_UNTIL_DELIVERED, GALERNA_WAIT_FOREVER));
 *         getchar();
 *         check(galerna_group_leave(group, 5000));
 *         return galerna_group_free(group) == GALERNA_OK ? 0 : 1;
 *     }
 *
 * Calls return a galerna_result_t. galerna_last_error() returns the text of the calling thread's
 * last error. Each function lists its errors. "The error that stopped the group" stands for the
 * code that the `stopped` callback receives, such as GALERNA_ERR_PARTITIONED or GALERNA_ERR_REMOVED.
 *
 * Every parameter `timeout_ms` is a time in milliseconds; with GALERNA_WAIT_FOREVER the call waits
 * without an end. The end of a group ends every wait for it.
 *
 * Each function that makes a handle names the call that frees it. A process can hold up to 1024
 * handles of each kind at a time (groups, configurations, views, logs, entries and so on); one
 * more fails with GALERNA_ERR_LIMIT.
 *
 * Set the `size` of a struct that begins with `size` to the struct's sizeof. Later versions append
 * fields. A program and a library of different versions work together: the library fills in the
 * fields that the program's header has, and sets fields that it does not know to 0. If a program
 * sets a field that the library does not know, the call fails with GALERNA_ERR_ARGUMENT, and the
 * text says that the program was compiled with a newer header. In a callback, GALERNA_HAS() tells
 * whether a struct of the library has a field.
 *
 * Errors and bugs of the library never end the process: a call returns GALERNA_ERR_INTERNAL
 * instead. Three conditions end the process: the system has no memory left for a small allocation,
 * a mapped file of a log has become shorter or unreadable (SIGBUS), and an exception leaves a
 * callback on an architecture other than x86-64 and AArch64.
 *
 * A thread that joins a group or opens a log needs 128 KiB of stack. The library's own threads that
 * run callbacks have the configuration's `stack_bytes`.
 *
 * A thread is not cancelled inside a call: a pthread_cancel() takes effect after the call. No call
 * may be made in a signal handler. A call continues after a signal handler has run during it.
 */

#ifndef GALERNA_H
#define GALERNA_H

/* Generated from ffi/src by cbindgen; do not edit. To make it anew: GALERNA_BLESS=1 cargo test -p galerna-ffi --test header */

#include <stddef.h>
#include <stdint.h>

/* Whether the struct that `pointer` points to has `field`: a struct that the library passes to a
 * callback ends after `size` bytes. */
#define GALERNA_HAS(pointer, field) ((size_t)((const char *)(&(pointer)->field + 1) - (const char *)(pointer)) <= (pointer)->size)

/* The initial value of a galerna_callbacks_t: its size is set, and it has no callback. */
#define GALERNA_CALLBACKS_INIT { sizeof(galerna_callbacks_t), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL }

/* The version of this header. galerna_version() returns that of the library. */
#define GALERNA_VERSION_MAJOR 0
#define GALERNA_VERSION_MINOR 1
#define GALERNA_VERSION_PATCH 0
#define GALERNA_VERSION "0.1.0"


/**
 * A timeout without an end, for every parameter `timeout_ms`.
 */
#define GALERNA_WAIT_FOREVER UINT32_MAX

/**
 * All members, as the `copies` of galerna_group_flush().
 */
#define GALERNA_COPIES_ALL UINT32_MAX

/**
 * The result of a call: GALERNA_OK, or the reason for which the call had no effect.
 *
 * The numbers never change, and no number is ever reused. Any call may also return GALERNA_ERR_INTERNAL, and in a
 * child made by fork() GALERNA_ERR_FORKED.
 */
enum galerna_result_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The call succeeded.
   */
  GALERNA_OK = 0,
  /**
   * An argument is invalid.
   *
   * It is NULL where it must not be, misaligned, not a value of its enumeration, not UTF-8, or a struct with
   * a `size` that this version does not know.
   */
  GALERNA_ERR_ARGUMENT = 1,
  /**
   * The handle is NULL, was freed, or never was a handle of this kind.
   */
  GALERNA_ERR_HANDLE = 2,
  /**
   * The configuration is invalid. The text names the key and the value.
   */
  GALERNA_ERR_CONFIG = 3,
  /**
   * The message is larger than `max_message_bytes`.
   */
  GALERNA_ERR_MESSAGE_TOO_LARGE = 4,
  /**
   * The call would have to wait but must not: its timeout is 0, or it was made inside a callback.
   */
  GALERNA_ERR_WOULD_BLOCK = 5,
  /**
   * The timeout passed.
   */
  GALERNA_ERR_TIMED_OUT = 6,
  /**
   * Some members did not appear before the join's deadline. The text names them.
   */
  GALERNA_ERR_MEMBERS_MISSING = 7,
  /**
   * A member has a different configuration. The text names the key that differs.
   */
  GALERNA_ERR_DISAGREEMENT = 8,
  /**
   * Another member refused this one.
   */
  GALERNA_ERR_REFUSED = 9,
  /**
   * The library cannot listen on this member's address.
   */
  GALERNA_ERR_LISTEN = 10,
  /**
   * A member violated the protocol while the group was being set up, and its link was severed.
   */
  GALERNA_ERR_CONTRACT = 12,
  /**
   * This process has left the group.
   */
  GALERNA_ERR_LEFT = 14,
  /**
   * There is no such subgroup.
   */
  GALERNA_ERR_UNKNOWN_SUBGROUP = 15,
  /**
   * The call is not allowed in this state, in this thread, or inside a callback.
   */
  GALERNA_ERR_MISUSE = 16,
  /**
   * The operating system returned an error.
   */
  GALERNA_ERR_IO = 17,
  /**
   * The process holds the maximum number of handles of this kind. Free some of them.
   */
  GALERNA_ERR_LIMIT = 18,
  /**
   * A defect of this library. Please report it together with the text.
   */
  GALERNA_ERR_INTERNAL = 19,
  /**
   * The group stopped here: this process could not reach more than half of the members.
   */
  GALERNA_ERR_PARTITIONED = 20,
  /**
   * The group stopped here: the other members continue without this process, which stood still or was unreachable.
   */
  GALERNA_ERR_REMOVED = 21,
  /**
   * This process joined, but could not take over the group's state.
   */
  GALERNA_ERR_STATE_TRANSFER = 22,
  /**
   * The configuration demands RDMA, and this machine has no usable RDMA device.
   */
  GALERNA_ERR_RDMA = 23,
  /**
   * The log is open for writing elsewhere, in this process or in another one. The text names its directory.
   */
  GALERNA_ERR_LOG_LOCKED = 24,
  /**
   * The log lacks disk space, memory or a file descriptor. No durable record is lost. The log continues as soon as
   * the resource is available.
   */
  GALERNA_ERR_LOG_FULL = 25,
  /**
   * Durable data of the log has changed on disk or is lost. The text names the file and the offset.
   */
  GALERNA_ERR_LOG_DAMAGED = 26,
  /**
   * The log belongs to another group, subgroup or member. The text names the file and the difference.
   */
  GALERNA_ERR_LOG_FOREIGN = 27,
  /**
   * The log was written by a later version of this library.
   */
  GALERNA_ERR_LOG_FORMAT = 28,
  /**
   * The requested record was trimmed. The text names the oldest record of the log.
   */
  GALERNA_ERR_LOG_TRIMMED = 29,
  /**
   * The disk failed a write or a sync. This is final: records that were not durable by then may be lost. Open the
   * log again.
   */
  GALERNA_ERR_LOG_FAILED = 30,
  /**
   * The record does not fit into a segment of the log.
   */
  GALERNA_ERR_LOG_RECORD_TOO_LARGE = 31,
  /**
   * The record's version or time is not greater than those of the last record.
   */
  GALERNA_ERR_LOG_ORDER = 32,
  /**
   * The group stopped: a callback of the application threw an exception. The text names the callback.
   */
  GALERNA_ERR_CALLBACK = 33,
  /**
   * The handle was made before a fork() and belongs to the parent process. See galerna_group_t.
   */
  GALERNA_ERR_FORKED = 34,
  /**
   * Two groups have this name and do not know of each other. The text names where each was found.
   */
  GALERNA_ERR_TWO_GROUPS = 35,
  /**
   * The process is joining the group still: see galerna_group_join_start().
   */
  GALERNA_ERR_JOINING = 36,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_result_t galerna_result_t;
#else
typedef int32_t galerna_result_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The level of a log line. A lower number is more important.
 */
enum galerna_log_level_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Something failed, and an operator should act.
   */
  GALERNA_LOG_LEVEL_ERROR = 1,
  /**
   * Something is wrong or unusual, and the library continues.
   */
  GALERNA_LOG_LEVEL_WARN = 2,
  /**
   * A rare event of normal operation.
   */
  GALERNA_LOG_LEVEL_INFO = 3,
  /**
   * A detail that helps to find a problem.
   */
  GALERNA_LOG_LEVEL_DEBUG = 4,
  /**
   * Every detail.
   */
  GALERNA_LOG_LEVEL_TRACE = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_log_level_t galerna_log_level_t;
#else
typedef int32_t galerna_log_level_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The condition under which a message is delivered. All modes share one order.
 */
enum galerna_mode_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Delivered as soon as this message and all earlier messages of its sender have arrived. It may overtake messages
   * of other senders.
   */
  GALERNA_MODE_FIFO = 0,
  /**
   * Delivered in the total order, as soon as all messages before it have arrived. The message can be lost if all
   * members that received it fail.
   */
  GALERNA_MODE_ORDERED = 1,
  /**
   * Delivered in the total order, once every member has received the message.
   */
  GALERNA_MODE_SAFE = 2,
  /**
   * Delivered in the total order, once every member has received the message and the voters have it on disk.
   *
   * The message must be on the disks of all voters, or of as many as `log.durable_members` specifies. Only groups
   * with a log support this mode. In other groups sending fails with GALERNA_ERR_MISUSE.
   */
  GALERNA_MODE_DURABLE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_mode_t galerna_mode_t;
#else
typedef int32_t galerna_mode_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The kind of a record in a log.
 */
enum galerna_log_kind_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A message of the application.
   */
  GALERNA_LOG_KIND_MESSAGE = 0,
  /**
   * Only in a group's log: the end of a view, in the library's own encoding.
   */
  GALERNA_LOG_KIND_DECISION = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_log_kind_t galerna_log_kind_t;
#else
typedef int32_t galerna_log_kind_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The thread that drives a group.
 */
enum galerna_drive_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A thread of the library, which galerna_group_join() starts. Callbacks run in that thread.
   */
  GALERNA_DRIVE_THREAD = 0,
  /**
   * The application's own loop. It waits until the descriptor of galerna_group_fd() is readable and then calls
   * galerna_group_dispatch(), which runs the callbacks. A call that waits dispatches until it is done, so callbacks
   * also run inside such calls.
   */
  GALERNA_DRIVE_DISPATCH = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_drive_t galerna_drive_t;
#else
typedef int32_t galerna_drive_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The event that galerna_group_wait() waits for.
 */
enum galerna_until_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The message has been delivered here, and the `deliver` callback has returned.
   */
  GALERNA_UNTIL_DELIVERED = 0,
  /**
   * The message, and all messages before it in the order, are durable. Only in a group with a log.
   */
  GALERNA_UNTIL_DURABLE = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_until_t galerna_until_t;
#else
typedef int32_t galerna_until_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A configuration.
 *
 * Its calls may be made from any thread. The handle is a number and is never dereferenced: using a freed handle
 * returns GALERNA_ERR_HANDLE. A child made by fork() may use it.
 */
typedef struct galerna_config_t galerna_config_t;

/**
 * A member of a group.
 *
 * The handle is a number and is never dereferenced: using a freed handle returns GALERNA_ERR_HANDLE.
 *
 * Fork: the member belongs to the process that joined. In a child made by fork(), every call with an inherited handle
 * of a group or a log, or of an object obtained from them, returns GALERNA_ERR_FORKED and has no effect. The calls
 * that free a handle return GALERNA_OK and have no effect. The child must not access the bytes of an open reservation
 * (on shared memory an access raises SIGSEGV). The parent is not affected. The child may join a group as a process of
 * its own, with an inherited or a new configuration.
 *
 * A child gives up its copies of the library's connections, ports and locks, so the other members detect the death of
 * the parent as usual. A fork at the moment in which a connection is made, or a bare clone(), can escape this. Such a
 * child keeps copies until it ends or calls exec: if the parent dies during that time, the other members detect it by
 * `failure_timeout_ms`. A child made by vfork() must not call the library.
 *
 * dlclose(): the shared library stays in memory, because its threads and fork handlers refer to it. Free all handles
 * before.
 */
typedef struct galerna_group_t galerna_group_t;

/**
 * A checkpoint of the application, stored beside a log: its state up to a version.
 *
 * Its calls may be made from any thread, one at a time. The handle is a number and is never dereferenced: using a
 * freed handle returns GALERNA_ERR_HANDLE.
 */
typedef struct galerna_log_checkpoint_t galerna_log_checkpoint_t;

/**
 * A checkpoint that is being written. It becomes valid, as a whole, when it is committed.
 *
 * Its calls may be made from any thread, one at a time. The handle is a number and is never dereferenced: using a
 * freed handle returns GALERNA_ERR_HANDLE.
 */
typedef struct galerna_log_checkpoint_writer_t galerna_log_checkpoint_writer_t;

/**
 * A record that was found in a log, together with the memory that holds it.
 *
 * Its calls may be made from any thread. The handle is a number and is never dereferenced: using a freed handle
 * returns GALERNA_ERR_HANDLE. A process can hold up to 1024 entries at a time.
 */
typedef struct galerna_log_entry_t galerna_log_entry_t;

/**
 * An iterator over the records of a log.
 *
 * Its calls may be made from any thread, one at a time. The handle is a number and is never dereferenced: using a
 * freed handle returns GALERNA_ERR_HANDLE.
 */
typedef struct galerna_log_iter_t galerna_log_iter_t;

/**
 * An append-only log on disk. Its records can be found by version and by time.
 *
 * Its calls may be made from any number of threads. The handle is a number and is never dereferenced: using a freed
 * handle returns GALERNA_ERR_HANDLE.
 *
 * The directory stays locked until the log is closed. Entries, iterators and checkpoint writers remain usable after
 * that, with the records that were durable by then, even while another writer has the log open. Those of a group's log
 * must be freed before this process joins again.
 */
typedef struct galerna_log_t galerna_log_t;

/**
 * The source that a `restore` callback reads the state from.
 *
 * It can be used only in the thread of that callback and only until the callback returns. Outside of that, calls
 * return GALERNA_ERR_HANDLE. The handle is a number and is never dereferenced.
 */
typedef struct galerna_reader_t galerna_reader_t;

/**
 * A function that receives the library's log lines. See galerna_set_log_callback().
 *
 * - `context`: the pointer that was given to galerna_set_log_callback().
 * - `level`: the level of the line.
 * - `target`: the part of the library that wrote the line, for example "galerna::driver". Valid during the call.
 * - `text`: one line without a newline at its end: a sentence, followed by ` name=value` for each field. Valid during
 *   the call.
 */
typedef void (*galerna_log_callback_t)(void *context,
                                       galerna_log_level_t level,
                                       const char *target,
                                       const char *text);

/**
 * A delivered message.
 *
 * The message and its payload are valid only during the callback. The payload is in ring memory or in a copy of it.
 */
typedef struct galerna_message_t {
  /**
   * Size in bytes of this struct in the library's version. Later versions append fields.
   */
  size_t size;
  /**
   * The payload, `length` bytes. Never NULL. It may have any alignment: copy it before it is used as a struct.
   */
  const void *payload;
  /**
   * Size of the payload in bytes.
   */
  size_t length;
  /**
   * Sequence number in the subgroup's total order. It continues from view to view. A number is skipped where a
   * sender sent a null message.
   */
  uint64_t sequence;
  /**
   * The `id` of the member that sent the message.
   */
  uint32_t sender;
  /**
   * The mode with which the message was sent.
   */
  galerna_mode_t mode;
  /**
   * The subgroup of the message.
   */
  uint16_t subgroup;
  /**
   * Number of the view in which the message is delivered.
   */
  uint64_t view;
  /**
   * The ticket that sending it gave, if this process has sent it in its present life; otherwise 0.
   */
  uint64_t ticket;
  /**
   * In a group with a log: the time of the message's record, in nanoseconds since 1970; otherwise 0. A
   * GALERNA_MODE_FIFO message that overtakes others has the time at which it was sent, and its record may have a later
   * one. The record of a GALERNA_MODE_ORDERED message may have another time if this process is removed from the
   * view.
   */
  uint64_t time_ns;
} galerna_message_t;

/**
 * A view: the members of the group, and the changes since the previous view.
 *
 * All members are notified of a view between the same two messages. All fields except `rank` and `addresses` have the same values at
 * every member.
 *
 * Each list consists of a pointer to member ids and their count. The pointers are never NULL. In a callback they are
 * valid until the callback returns. After galerna_group_view() they are valid until galerna_view_free().
 */
typedef struct galerna_view_t {
  /**
   * Set it to sizeof(galerna_view_t). In a callback: the size in bytes of this struct in the library's version.
   */
  size_t size;
  /**
   * Private to the library.
   */
  void *private_handle;
  /**
   * Number of the view. The first view has number 0, and each later view one more than the view before.
   */
  uint64_t number;
  /**
   * The members in rank order, the oldest first. If the application needs a leader, use the lowest rank,
   * `members[0]`.
   */
  const uint32_t *members;
  /**
   * Number of ids in `members`.
   */
  size_t member_count;
  /**
   * This process's index in `members`.
   */
  size_t rank;
  /**
   * The voters: the subset of `members` that counts for the majority, in the same order.
   *
   * The group stops without a majority of the voters. A joining process first becomes a member, and becomes a voter
   * in a later view, when it has the group's state. Before you restart or stop a member, wait until all other
   * running members are listed here.
   */
  const uint32_t *voters;
  /**
   * Number of ids in `voters`.
   */
  size_t voter_count;
  /**
   * Members that were not in the previous view.
   */
  const uint32_t *joined;
  /**
   * Number of ids in `joined`.
   */
  size_t joined_count;
  /**
   * Members of the previous view that asked to leave.
   */
  const uint32_t *left;
  /**
   * Number of ids in `left`.
   */
  size_t left_count;
  /**
   * Members of the previous view that died, stood still or could not be reached. See galerna_group_fault().
   */
  const uint32_t *failed;
  /**
   * Number of ids in `failed`.
   */
  size_t failed_count;
  /**
   * The addresses of the members, as many as `members` and in the same order: zero-terminated strings, empty where
   * this process does not know the address. They may differ from member to member.
   */
  const char *const *addresses;
} galerna_view_t;

/**
 * The application's state at one moment: functions to read and to free it.
 *
 * Both functions run in a thread of the library while further messages are delivered. The two never run at the same
 * time. They count as callbacks: see galerna_callbacks_t.
 */
typedef struct galerna_snapshot_t {
  /**
   * Size in bytes of this struct in the library's version. Later versions append fields.
   */
  size_t size;
  /**
   * Passed to both functions.
   */
  void *context;
  /**
   * Reads the next bytes of the state into `buffer`. Must be set.
   *
   * Writes at most `length` bytes and returns their number, or 0 at the end of the state. A negative number means
   * that the state cannot be read: the joining member is then refused.
   */
  ptrdiff_t (*read)(void *context, void *buffer, size_t length);
  /**
   * Called once when the state is no longer needed, even if it was not read to its end. May be NULL.
   */
  void (*free)(void *context);
} galerna_snapshot_t;

/**
 * The callbacks of an application. Two of them transfer its state to joining members.
 *
 * Threads: the callbacks of a group run one at a time. With GALERNA_DRIVE_THREAD they run in a thread of the library.
 * With GALERNA_DRIVE_DISPATCH they run inside galerna_group_dispatch() and inside calls that wait. With either,
 * `restore` and the first `view` run inside galerna_group_join(). When a member of a group with a log is started
 * again, `deliver` also runs inside galerna_group_join(), before the first view and in a thread of the library: it
 * receives the messages of the log that the checkpoint does not cover.
 *
 * Time: the group makes no progress while a callback runs. A callback that lasts longer than `failure_timeout_ms`
 * makes this process look dead to the other members.
 *
 * Exceptions: a callback must return. A C++ exception that leaves a callback stops the group with GALERNA_ERR_CALLBACK
 * (on x86-64 and AArch64; on other architectures it ends the process). A callback that is left by longjmp(), by
 * pthread_exit() or by the cancellation of its thread leaves the library in an undefined state. An exception that leaves
 * `joined` or `left` is dropped.
 *
 * Signals and stack: the library's threads block all signals except those of a fault (SIGSEGV, SIGBUS, SIGFPE, SIGILL,
 * SIGTRAP, SIGSYS). The size of their stacks is the configuration key `stack_bytes`.
 *
 * Calls inside a callback, of any group, never wait. galerna_group_send(), galerna_group_reserve() and
 * galerna_log_append() act as if their timeout were 0. The following return GALERNA_ERR_MISUSE: galerna_group_join(),
 * galerna_group_dispatch(), galerna_group_wait(), galerna_group_flush(), galerna_group_wait_durable(), galerna_group_wait_closed(),
 * galerna_group_persist(), galerna_group_checkpoint(), galerna_group_trim_log(), galerna_group_leave(),
 * galerna_group_free(), and the calls of a log that wait for its disk. All other calls work as usual:
 * galerna_group_leave_start() is the way to leave from a callback.
 *
 * State: an application with state sets both `snapshot` and `restore`. An application that sets neither has no state:
 * its joining members begin with the messages that follow. In a group with a log both callbacks also serve
 * checkpoints: galerna_group_checkpoint() stores the state from `snapshot`, and `restore` receives it when the process
 * is started again.
 */
typedef struct galerna_callbacks_t {
  /**
   * Set it to sizeof(galerna_callbacks_t).
   */
  size_t size;
  /**
   * Delivers a message, in the order of the subgroup. `message` is valid until the callback returns. Must not be
   * NULL.
   */
  void (*deliver)(void *context, const struct galerna_message_t *message);
  /**
   * Called when the group has stopped. `code` and `text` give the reason. Nothing more is delivered.
   *
   * Called at most once, and not for a leave of this process. `text` is valid until the callback returns. May be
   * NULL.
   */
  void (*stopped)(void *context, galerna_result_t code, const char *text);
  /**
   * Passed to the callbacks. They may use it in any thread until the group is freed.
   */
  void *context;
  /**
   * Called when a view begins: after the last message of the previous view, before the first message of the new one.
   *
   * Every member is called between the same two messages. A joining process gets its first view after `restore`. The
   * restored state may already contain messages of that view; they are not delivered again. `view` is valid until
   * the callback returns. May be NULL.
   */
  void (*view)(void *context, const struct galerna_view_t *view);
  /**
   * Called when a process joins: fill in `snapshot` with functions that read the present state.
   *
   * The state must include every message delivered so far. It is read later and in another thread, so it must not
   * change with the messages that follow. The callback must be short: provide a copy, or something that shares
   * immutable data.
   *
   * Return 0 on success. Return any other number to refuse: then the snapshot's `free` is not called. A refusal is
   * final for this member. The joining process asks another member, and galerna_group_fault() of this member's own
   * id reports the reason. NULL if and only if `restore` is NULL.
   */
  int (*snapshot)(void *context, struct galerna_snapshot_t *snapshot);
  /**
   * Called when this process joins: replace the own state by another member's state, using galerna_reader_read().
   *
   * It runs before any message is delivered and before galerna_group_join() has a handle. It may take as long as the
   * join. Return 0 on success. Return any other number on failure: then the join fails, unless a read had failed
   * before. If the member that sends the state dies during the transfer, the callback is called again from the
   * start; discard everything that an earlier call read. NULL if and only if `snapshot` is NULL.
   */
  int (*restore)(void *context, struct galerna_reader_t *reader);
  /**
   * Called in a group with a log when all messages with numbers below `below` have become durable.
   *
   * Durable means: on the disks of all voters, or of as many as `log.durable_members` specifies. It is called after
   * the delivery of the messages that became deliverable by this. May be NULL.
   */
  void (*durable)(void *context, uint64_t below);
  /**
   * Called in a group with a log when an operator should check the clock of member `member`'s host.
   *
   * That host's clock differs from the other members' clocks by more than `log.clock_skew_max_ms`. `member` may be
   * this process. The group continues. `text` describes the problem and the remedy, and is valid until the callback
   * returns. The warning is repeated after ten minutes if the problem persists. May be NULL.
   */
  void (*warned)(void *context, uint32_t member, const char *text);
  /**
   * Called once when a join that galerna_group_join_start() has begun is over.
   *
   * `result` is GALERNA_OK, or the error that galerna_group_join() would have returned; after a cancellation it is
   * GALERNA_ERR_LEFT. For an error galerna_last_error() returns the text during the callback. If the handle is freed
   * before the join is over, the callback runs in galerna_group_free(). May be NULL.
   */
  void (*joined)(void *context, galerna_result_t result);
  /**
   * Called once when a leave that galerna_group_leave_start() has begun is over.
   *
   * `result` is GALERNA_OK, or the error that galerna_group_leave() would have returned. For an error
   * galerna_last_error() returns the text during the callback. No callback follows. May be NULL.
   */
  void (*left)(void *context, galerna_result_t result);
} galerna_callbacks_t;

/**
 * A part of a message.
 */
typedef struct galerna_part_t {
  /**
   * The bytes. May be NULL when `length` is 0.
   */
  const void *data;
  /**
   * Number of bytes.
   */
  size_t length;
} galerna_part_t;

/**
 * Ring bytes to be filled in place.
 *
 * galerna_group_commit() sends them, galerna_group_abandon() gives them up. Every reservation must end with one of
 * these two calls. An open reservation holds back all later messages of this process. galerna_group_leave() waits for
 * it and finally drops it.
 *
 * A reservation belongs to one thread at a time. The library checks its contents: using a reservation twice, or a
 * changed one, fails with GALERNA_ERR_MISUSE.
 */
typedef struct galerna_reservation_t {
  /**
   * Set it to sizeof(galerna_reservation_t).
   */
  size_t size;
  /**
   * Where to write the message: a multiple of 8. It contains bytes of earlier messages at first. NULL after the
   * commit or the abandon.
   */
  void *data;
  /**
   * Size of the message in bytes.
   */
  size_t length;
  /**
   * Private to the library.
   */
  uint32_t private_ticket;
  /**
   * Private to the library.
   */
  uint32_t private_word;
  /**
   * Private to the library.
   */
  uint64_t private_place;
  /**
   * Private to the library.
   */
  uint64_t private_check;
} galerna_reservation_t;

/**
 * Counters of one subgroup at this member, since the start.
 */
typedef struct galerna_group_stats_t {
  /**
   * Set it to sizeof(galerna_group_stats_t).
   */
  size_t size;
  /**
   * Messages sent.
   */
  uint64_t messages_sent;
  /**
   * Payload bytes of the messages sent.
   */
  uint64_t bytes_sent;
  /**
   * Null messages sent. They keep the order going while this member has nothing to send.
   */
  uint64_t nulls_sent;
  /**
   * Batches in which messages and null messages were published.
   */
  uint64_t batches_sent;
  /**
   * Messages delivered.
   */
  uint64_t messages_delivered;
  /**
   * Payload bytes of the messages delivered.
   */
  uint64_t bytes_delivered;
  /**
   * Passes of the engine that delivered at least one message.
   */
  uint64_t batches_delivered;
  /**
   * Passes of the engine.
   */
  uint64_t passes;
  /**
   * Number of times the engine slept.
   */
  uint64_t sleeps;
  /**
   * Writes given to the transport, one per peer.
   */
  uint64_t fabric_writes_posted;
  /**
   * Bytes sent on the wire, headers included. On shared memory: bytes of the ranges that were announced.
   */
  uint64_t fabric_bytes_sent;
  /**
   * Bytes received from the wire, headers included. Zero on shared memory.
   */
  uint64_t fabric_bytes_received;
  /**
   * System calls that moved data or woke a peer. On RDMA they are made by the device's driver, if at all.
   */
  uint64_t fabric_system_calls;
  /**
   * Requests given to an RDMA device: writes, wake-ups and reads.
   */
  uint64_t fabric_work_requests;
  /**
   * Calls that passed requests to an RDMA device. Each one rings the doorbell once.
   */
  uint64_t fabric_doorbells;
} galerna_group_stats_t;

/**
 * The space of this member's ring. With it a sender can control its own rate.
 */
typedef struct galerna_group_ring_t {
  /**
   * Set it to sizeof(galerna_group_ring_t).
   */
  size_t size;
  /**
   * Size of the ring in bytes.
   */
  uint64_t ring_bytes;
  /**
   * Bytes that no message occupies. A message takes its payload, rounded up to 8 bytes, and a header of 8 bytes, in a
   * group with a log of 16.
   */
  uint64_t free_bytes;
  /**
   * 1 if a message was refused, or had to wait, since space was last freed; otherwise 0.
   */
  uint64_t is_short;
} galerna_group_ring_t;

/**
 * The progress of a group with a log, as this member knows it.
 *
 * Except for `view` and `closed_ns`, each frontier is a sequence number of the total order: all messages with smaller
 * numbers have reached that stage. No frontier ever goes back.
 */
typedef struct galerna_group_frontiers_t {
  /**
   * Set it to sizeof(galerna_group_frontiers_t).
   */
  size_t size;
  /**
   * Number of the present view.
   */
  uint64_t view;
  /**
   * Received by every member, and handed to the log at this member.
   */
  uint64_t stable;
  /**
   * Persisted: written and synced to this member's disk.
   */
  uint64_t persisted;
  /**
   * Persisted by all voters. Such messages can no longer be revoked.
   */
  uint64_t persisted_all;
  /**
   * Persisted by all voters, or by as many voters as `log.durable_members` specifies.
   */
  uint64_t durable;
  /**
   * The closed time. Up to this time the log is the same at every member and does not change any more: no later
   * record has this time or an earlier one.
   *
   * In nanoseconds since 1970, by the group's own clock, which also sets `time_ns` of a record.
   */
  uint64_t closed_ns;
} galerna_group_frontiers_t;

/**
 * The position of a record in a log.
 *
 * Versions grow from record to record, with gaps. To compare two versions, compare `view` first, then `sequence`.
 */
typedef struct galerna_version_t {
  /**
   * Number of the view in which the message was delivered. 0 in a log without a group.
   */
  uint64_t view;
  /**
   * Sequence number of the message in the total order. In a log without a group it begins with 1.
   */
  uint64_t sequence;
} galerna_version_t;

/**
 * Options of a log. A field that is 0 selects its default.
 */
typedef struct galerna_log_options_t {
  /**
   * Set it to sizeof(galerna_log_options_t).
   */
  size_t size;
  /**
   * Size of a segment in bytes: a multiple of 4096, from 8 KiB to 2 GiB. The default is 64 MiB.
   *
   * A record does not span segments, and galerna_log_trim() removes whole segments. An existing log keeps the size
   * with which it was made.
   */
  uint64_t segment_bytes;
  /**
   * Number of appended bytes that may be not yet durable; beyond it an append waits. The default is 64 MiB.
   */
  size_t backlog_max_bytes;
} galerna_log_options_t;

/**
 * The contents of a record.
 */
typedef struct galerna_log_record_t {
  /**
   * Set it to sizeof(galerna_log_record_t).
   */
  size_t size;
  /**
   * The payload, `length` bytes. Never NULL. Valid until the entry is freed.
   *
   * If this process writes the log, the payload is in the mapping of the log's file.
   */
  const void *payload;
  /**
   * Size of the payload in bytes.
   */
  size_t length;
  /**
   * The record's position in the log.
   */
  struct galerna_version_t version;
  /**
   * Time of the append, in nanoseconds since 1970. It is greater than that of the record before.
   */
  uint64_t time_ns;
  /**
   * The `id` of the member that sent the message. 0 in a log without a group.
   */
  uint32_t sender;
  /**
   * The mode with which the message was sent. GALERNA_MODE_ORDERED in a log without a group.
   */
  galerna_mode_t mode;
  /**
   * The kind of the record.
   */
  galerna_log_kind_t kind;
  /**
   * Always 0.
   */
  uint32_t reserved;
} galerna_log_record_t;

/**
 * Information about a checkpoint.
 */
typedef struct galerna_log_checkpoint_info_t {
  /**
   * Set it to sizeof(galerna_log_checkpoint_info_t).
   */
  size_t size;
  /**
   * The last version that the checkpoint covers. Apply the records after it to the checkpoint.
   */
  struct galerna_version_t version;
  /**
   * The time given to galerna_log_checkpoint_begin(), in nanoseconds since 1970.
   */
  uint64_t time_ns;
  /**
   * Size of the checkpoint in bytes.
   */
  uint64_t length;
} galerna_log_checkpoint_info_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns a short description of a result code, in English.
 *
 * The string is static. It is never NULL, also for numbers that are not result codes. May be called from any thread.
 */
const char *galerna_strerror(galerna_result_t result);

/**
 * Returns the name of a result code, for example "GALERNA_ERR_ARGUMENT".
 *
 * For a number that is no result code it returns "unknown result". The string is static. May be called from any thread.
 */
const char *galerna_result_name(galerna_result_t result);

/**
 * Returns the text of the last error in the calling thread: the problem, the value, and the remedy.
 *
 * Successful calls do not change it. The string is empty if no call has failed in this thread, and never NULL. It is
 * valid until this thread's next call of this function. May be called from any thread.
 */
const char *galerna_last_error(void);

/**
 * Returns the version of the library, for example "1.2.3".
 *
 * The string is static. May be called from any thread.
 */
const char *galerna_version(void);

/**
 * Sets the function that receives the library's log lines. Without it the library logs nothing.
 *
 * - `level`: a galerna_log_level_t. Only lines of this level and of the more important ones are passed on.
 * - `function`: the function, or NULL to remove the present one. `level` and `context` are ignored then.
 * - `context`: passed to the function. It must be usable in any thread until the function is replaced or removed.
 *
 * The setting is one for the whole process. When the call returns, the function that was set before is not running and
 * will not be called again. A child made by fork() inherits the setting.
 *
 * The function may be called in any thread of the library and in any thread that calls the library, also in several
 * threads at once, and while the library holds locks. It must return soon, because a group makes no progress
 * meanwhile. Inside it only galerna_last_error(), galerna_strerror(), galerna_result_name(), galerna_mode_name() and
 * galerna_version() may be called. Every other call returns GALERNA_ERR_MISUSE, and the calls without a result have no
 * effect. If the function throws a C++ exception, the exception is dropped (on x86-64 and AArch64; on other
 * architectures it ends the process).
 *
 * May be called from any thread, but not inside a callback, and not while holding a lock that the function waits for.
 *
 * Errors: GALERNA_ERR_ARGUMENT (`level` is no galerna_log_level_t), GALERNA_ERR_MISUSE (inside a callback, or the
 * process has set a global `tracing` subscriber of its own, as a Rust program can that links the library statically).
 */
galerna_result_t galerna_set_log_callback(galerna_log_level_t level,
                                          galerna_log_callback_t function,
                                          void *context);

/**
 * Makes a configuration without members. Every other key has its default.
 *
 * Add the members with galerna_config_add_member(), set further keys with galerna_config_set(), and then the own
 * member with galerna_config_set_member().
 *
 * - `group`: the name of the group, a UTF-8 string of 1 to 255 bytes that ends with a zero byte. Not kept after the
 *   call.
 * - `out`: receives the configuration, or NULL after an error. Free it with galerna_config_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_ARGUMENT (NULL, or not UTF-8), GALERNA_ERR_CONFIG (the name is empty or too long),
 * GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_config_new(const char *group,
                                    struct galerna_config_t **out);

/**
 * Makes a configuration from TOML text and validates it.
 *
 * - `toml`: a string that ends with a zero byte. Not kept after the call.
 * - `out`: receives the configuration, or NULL after an error. Free it with galerna_config_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_ARGUMENT (NULL, or not UTF-8), GALERNA_ERR_CONFIG (the text names the key), GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_config_from_toml(const char *toml,
                                          struct galerna_config_t **out);

/**
 * Makes a configuration from a TOML file and validates it.
 *
 * - `path`: the path of the file, a UTF-8 string that ends with a zero byte. Not kept after the call.
 * - `out`: receives the configuration, or NULL after an error. Free it with galerna_config_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_ARGUMENT (NULL, or not UTF-8), GALERNA_ERR_IO (the file cannot be read), GALERNA_ERR_CONFIG (the
 * text names the key), GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_config_from_file(const char *path,
                                          struct galerna_config_t **out);

/**
 * Adds a member at the end of the list `members`. The order of the list gives the ranks in the first view.
 *
 * - `member`: the id of the member, which no other member has.
 * - `address`: the address at which the other members reach it, a UTF-8 string that ends with a zero byte:
 *   `HOST:PORT`, or `unix:PATH` for the fabric `shm`. Not kept after the call.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`address` is NULL, or not UTF-8), GALERNA_ERR_CONFIG (the address
 * is invalid, another member has the id or the address, or there are too many members). After an error nothing is
 * added.
 */
galerna_result_t galerna_config_add_member(struct galerna_config_t *config,
                                           uint32_t member,
                                           const char *address);

/**
 * Adds an address to the list `contacts`: further processes that this one asks whether the group runs.
 *
 * - `address`: the address of the process, a UTF-8 string that ends with a zero byte, as for
 *   galerna_config_add_member(). Not kept after the call.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`address` is NULL, or not UTF-8), GALERNA_ERR_CONFIG (the address
 * is invalid, or there are too many contacts). After an error nothing is added.
 */
galerna_result_t galerna_config_add_contact(struct galerna_config_t *config,
                                            const char *address);

/**
 * Sets one key of a configuration from text, in place of its present value or its default.
 *
 * - `key`: the key, as in a TOML file. The name of a key in a table follows the name of the table and a dot:
 *   "ring_bytes", "log.directory", "verbs.mtu". A string that ends with a zero byte.
 * - `value`: the value, a UTF-8 string that ends with a zero byte: "1048576", "true", "tcp". A string has no quotation
 *   marks. A list is written as in TOML. Both strings are not kept after the call.
 *
 * The call checks the key and the range of the value. galerna_group_join() checks what depends on several keys: for
 * example, `partition_timeout_ms` must not be less than `failure_timeout_ms`.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (a string is NULL, or not UTF-8), GALERNA_ERR_CONFIG (there is no
 * such key, or the value is invalid; the text names the key, the value and what is allowed). After an error the
 * configuration is unchanged.
 */
galerna_result_t galerna_config_set(struct galerna_config_t *config,
                                    const char *key,
                                    const char *value);

/**
 * Sets which member this process is. Without this call the key `member` applies.
 *
 * - `member`: the `id` of one of the configured members. If the key `address` is set: an id that none of them has. The
 *   process then joins the running group.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_CONFIG (there is no such member).
 */
galerna_result_t galerna_config_set_member(struct galerna_config_t *config,
                                           uint32_t member);

/**
 * Frees a configuration. Groups that were joined with it do not need it any more.
 *
 * NULL and a handle that was already freed are ignored. May be called from any thread.
 */
void galerna_config_free(struct galerna_config_t *config);

/**
 * Founds a group together with the other members, or joins it if it already runs.
 *
 * Returns when this process is a voter of the group's view (see galerna_view_t) and the `view` callback has been
 * called for that view. From then on the next member can be restarted or stopped. Waits for at most the
 * configuration's `join_timeout_ms`.
 *
 * - `config`: the configuration, with the own member set. It can be freed afterwards.
 * - `callbacks`: the callbacks. The struct is copied. The context must outlive the group's handle.
 * - `drive`: a galerna_drive_t, which selects the thread that drives the group.
 * - `out`: receives the handle, or NULL after an error. Free it with galerna_group_free(). It is written before the
 *   first callback runs, with two exceptions: `restore`, and the `deliver` calls for the messages of the log when a
 *   process is started again.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors:
 * - GALERNA_ERR_ARGUMENT, GALERNA_ERR_HANDLE (`config`), GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (inside a callback).
 * - GALERNA_ERR_CONFIG, GALERNA_ERR_LISTEN, GALERNA_ERR_RDMA, GALERNA_ERR_IO.
 * - GALERNA_ERR_MEMBERS_MISSING, GALERNA_ERR_DISAGREEMENT, GALERNA_ERR_REFUSED, GALERNA_ERR_TWO_GROUPS,
 *   GALERNA_ERR_CONTRACT, GALERNA_ERR_STATE_TRANSFER.
 * - GALERNA_ERR_CALLBACK: `view` or `deliver` threw an exception during the join. The process has left the group.
 * - Errors of the group's log: GALERNA_ERR_LOG_LOCKED, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_DAMAGED,
 *   GALERNA_ERR_LOG_FOREIGN, GALERNA_ERR_LOG_FORMAT, GALERNA_ERR_LOG_FAILED.
 * - Any other error that stops a group.
 */
galerna_result_t galerna_group_join(const struct galerna_config_t *config,
                                    const struct galerna_callbacks_t *callbacks,
                                    galerna_drive_t drive,
                                    struct galerna_group_t **out);

/**
 * Begins to join a group, and returns at once with its handle.
 *
 * Like galerna_group_join(), except that nothing waits. A thread of the library does what blocks. The `joined` callback
 * tells when the join is over, and with which result. Until then calls with the handle return GALERNA_ERR_JOINING,
 * except galerna_group_fd(), galerna_group_dispatch(), galerna_group_leave(), galerna_group_leave_start() and
 * galerna_group_free(). After a join that failed they return its error; free the handle then.
 *
 * With GALERNA_DRIVE_DISPATCH the descriptor of galerna_group_fd() is valid from the beginning and stays the same. All
 * callbacks, `restore` and `joined` included, run in galerna_group_dispatch(). Of these only `restore` can wait, for the
 * state that it reads. With GALERNA_DRIVE_THREAD they run in a thread of the library.
 *
 * galerna_group_leave(), galerna_group_leave_start() and galerna_group_free() cancel the join. A process that is in the
 * group by then leaves it. If the members are just beginning the view that names it, they may list it in `failed`
 * instead of `left`: it has ended before it could ask to leave.
 *
 * The parameters are those of galerna_group_join(). `out` is written before the first callback runs.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_ARGUMENT, GALERNA_ERR_HANDLE (`config`), GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (inside a
 * callback), GALERNA_ERR_CONFIG, GALERNA_ERR_IO. All other errors come with the `joined` callback.
 */
galerna_result_t galerna_group_join_start(const struct galerna_config_t *config,
                                          const struct galerna_callbacks_t *callbacks,
                                          galerna_drive_t drive,
                                          struct galerna_group_t **out);

/**
 * Gets this process's member id: its `id` in the configuration.
 *
 * - `member`: receives the id.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`member` is NULL).
 */
galerna_result_t galerna_group_member(const struct galerna_group_t *group, uint32_t *member);

/**
 * Gets the first fault that this process observed of a member.
 *
 * The fault is the reason for which this process suspects the member, or the id of another member that suspects it.
 * For a member that was removed, it is the observation that led to the removal. For a member of the view, it is the
 * first observation since the view began. Other members may have observed something else. The text is for people, not
 * for programs.
 *
 * - `member`: the member's id. If nothing is known against this member, or there is no such member, the text is empty.
 * - `text`: receives at most `capacity` bytes of the text, including the zero byte at the end. May be NULL when
 *   `capacity` is 0.
 * - `length`: receives the length of the whole text in bytes, without the zero byte. May be NULL.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT.
 */
galerna_result_t galerna_group_fault(const struct galerna_group_t *group,
                                     uint32_t member,
                                     char *text,
                                     size_t capacity,
                                     size_t *length);

/**
 * Gets the size limit of a message in a subgroup, in bytes.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `bytes`: receives the limit.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`bytes` is NULL), GALERNA_ERR_UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_group_max_message(const struct galerna_group_t *group,
                                           uint16_t subgroup,
                                           size_t *bytes);

/**
 * Returns the name of a mode, for example "GALERNA_MODE_SAFE".
 *
 * For a number that is no mode it returns "unknown mode". The string is static. May be called from any thread.
 */
const char *galerna_mode_name(galerna_mode_t mode);

/**
 * Sends a copy of `length` bytes as one message.
 *
 * Returns when the message is accepted, not when it is delivered. To wait for that, see galerna_group_wait().
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `mode`: a galerna_mode_t, which determines when the message may be delivered.
 * - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
 * - `timeout_ms`: how long to wait while the ring is full, in milliseconds. 0 does not wait. Inside a callback it
 *   counts as 0.
 * - `ticket`: receives the message's ticket, for galerna_group_wait(); the delivery of the message here carries it, too.
 *   At least 1; 0 after an error. May be NULL.
 *
 * May be called from any thread. Messages of one thread are sent in the order of its calls.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MESSAGE_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the ring
 * is full and the timeout is 0), GALERNA_ERR_TIMED_OUT (the ring stayed full), GALERNA_ERR_UNKNOWN_SUBGROUP,
 * GALERNA_ERR_MISUSE (GALERNA_MODE_DURABLE in a group without a log), GALERNA_ERR_LEFT, and the error that stopped the
 * group.
 */
galerna_result_t galerna_group_send(struct galerna_group_t *group,
                                    uint16_t subgroup,
                                    galerna_mode_t mode,
                                    const void *data,
                                    size_t length,
                                    uint32_t timeout_ms,
                                    uint64_t *ticket);

/**
 * Sends a copy of several parts, one after another, as one message.
 *
 * Like galerna_group_send(), except for the data:
 *
 * - `parts`: the parts. May be NULL when `part_count` is 0. Not kept after the call.
 * - `part_count`: number of parts.
 *
 * May be called from any thread.
 *
 * Errors: those of galerna_group_send().
 */
galerna_result_t galerna_group_sendv(struct galerna_group_t *group,
                                     uint16_t subgroup,
                                     galerna_mode_t mode,
                                     const struct galerna_part_t *parts,
                                     size_t part_count,
                                     uint32_t timeout_ms,
                                     uint64_t *ticket);

/**
 * Waits until a message of this process has been delivered here, or is durable.
 *
 * With it a server can answer its client.
 *
 * - `subgroup`: the subgroup of the message.
 * - `ticket`: from galerna_group_send(), galerna_group_sendv() or galerna_group_commit().
 * - `until`: a galerna_until_t.
 * - `timeout_ms`: how long to wait, in milliseconds. 0 only asks: GALERNA_ERR_TIMED_OUT means not yet.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (no galerna_until_t, or a ticket of 0), GALERNA_ERR_MISUSE (inside a
 * callback; a ticket that no message has had so far; or GALERNA_UNTIL_DURABLE in a group without a log),
 * GALERNA_ERR_TIMED_OUT, GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group. After
 * the last two, other members may have been delivered the message.
 */
galerna_result_t galerna_group_wait(struct galerna_group_t *group,
                                    uint16_t subgroup,
                                    uint64_t ticket,
                                    galerna_until_t until,
                                    uint32_t timeout_ms);

/**
 * Waits until enough members have received all messages that this process has sent and all that were delivered here.
 *
 * Then a crash of fewer than `copies` members cannot lose any of these messages. An open reservation delays the call.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `copies`: the number of members, including this one. GALERNA_COPIES_ALL, or more than there are, means all members.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`copies` is 0), GALERNA_ERR_MISUSE (inside a callback),
 * GALERNA_ERR_TIMED_OUT, GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
 */
galerna_result_t galerna_group_flush(struct galerna_group_t *group,
                                     uint16_t subgroup,
                                     uint32_t copies,
                                     uint32_t timeout_ms);

/**
 * Reserves `length` bytes of the ring, to be filled in place.
 *
 * The messages of one process are ordered by their reservations.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `length`: size of the message in bytes.
 * - `timeout_ms`: how long to wait while the ring is full, in milliseconds. 0 does not wait. Inside a callback it
 *   counts as 0.
 * - `out`: receives the reservation. Its `size` must be set. After an error nothing is reserved, and `data` is NULL
 *   unless `out` itself was invalid.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MESSAGE_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the ring
 * is full and the timeout is 0), GALERNA_ERR_TIMED_OUT (the ring stayed full), GALERNA_ERR_UNKNOWN_SUBGROUP,
 * GALERNA_ERR_LEFT, and the error that stopped the group.
 */
galerna_result_t galerna_group_reserve(struct galerna_group_t *group,
                                       uint16_t subgroup,
                                       size_t length,
                                       uint32_t timeout_ms,
                                       struct galerna_reservation_t *out);

/**
 * Sends a reserved message and clears the reservation. Never waits.
 *
 * - `reservation`: an open reservation, filled in by galerna_group_reserve() for this group.
 * - `mode`: a galerna_mode_t, which determines when the message may be delivered.
 * - `ticket`: receives the message's ticket, as in galerna_group_send(). May be NULL.
 *
 * In a group that has stopped, nothing is sent and the call returns GALERNA_OK. The next galerna_group_reserve()
 * returns the error that stopped the group.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (the reservation stays open), GALERNA_ERR_MISUSE (the reservation
 * is not open; or the mode is GALERNA_MODE_DURABLE and the group has no log, in which case the reservation stays
 * open), GALERNA_ERR_LEFT (galerna_group_leave() dropped the reservation: nothing is sent, and the reservation is
 * cleared), GALERNA_ERR_UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_group_commit(struct galerna_group_t *group,
                                      struct galerna_reservation_t *reservation,
                                      galerna_mode_t mode,
                                      uint64_t *ticket);

/**
 * Abandons a reservation and clears it. Nothing is sent. Never waits.
 *
 * - `reservation`: an open reservation, filled in by galerna_group_reserve() for this group.
 *
 * Abandoning a reservation that galerna_group_leave() has dropped is not an error. May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MISUSE (the reservation is not open),
 * GALERNA_ERR_UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_group_abandon(struct galerna_group_t *group,
                                       struct galerna_reservation_t *reservation);

/**
 * Gets the file descriptor of a group that was joined with GALERNA_DRIVE_DISPATCH.
 *
 * The descriptor is readable when galerna_group_join() returns, and later whenever there is work to dispatch,
 * including heartbeats that become due. Wait for it with poll, select or epoll; no timeout is needed. Do not use it
 * for anything else. The library owns it and closes it when the group is left or freed.
 *
 * - `fd`: receives the descriptor.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`fd` is NULL), GALERNA_ERR_MISUSE (a thread of the library drives
 * this group), GALERNA_ERR_LEFT.
 */
galerna_result_t galerna_group_fd(const struct galerna_group_t *group,
                                  int *fd);

/**
 * Does the pending work of a group that was joined with GALERNA_DRIVE_DISPATCH. Never waits.
 *
 * The work includes the callbacks. In a busy group the function returns before all work is done; the descriptor is
 * readable then.
 *
 * May be called from any thread, but only from one at a time.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (a thread of the library drives this group, or the call was made
 * inside a callback), GALERNA_ERR_WOULD_BLOCK (another thread is dispatching and does the work), GALERNA_ERR_LEFT, and
 * the error that stopped the group.
 */
galerna_result_t galerna_group_dispatch(struct galerna_group_t *group);

/**
 * Reads the next bytes of a state: `length` of them, or fewer at the end of the state.
 *
 * Waits for the member that sends the state.
 *
 * - `reader`: the reader that the `restore` callback received.
 * - `buffer`: receives the bytes. May be NULL when `length` is 0.
 * - `got`: receives the number of bytes read. It is less than `length` only at the end of the state, and 0 after an
 *   error.
 *
 * May be called only in the thread of the `restore` callback, until the callback returns.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_IO (the state is incomplete: the member that sends it
 * died or could not read it; the callback should return an error).
 */
galerna_result_t galerna_reader_read(struct galerna_reader_t *reader,
                                     void *buffer,
                                     size_t length,
                                     size_t *got);

/**
 * Gets the last view that the application was notified of. Also works after the leave and after the group has stopped.
 *
 * - `view`: receives the view. Its `size` must be set. Free it with galerna_view_free(). After an error it holds
 *   nothing.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_group_view(const struct galerna_group_t *group,
                                    struct galerna_view_t *view);

/**
 * Frees a view that galerna_group_view() filled in, and clears it.
 *
 * NULL, a view that was already freed, and a copy of such a view are ignored. May be called from any thread.
 */
void galerna_view_free(struct galerna_view_t *view);

/**
 * Gets the counters of a subgroup.
 *
 * In a busy group the counters may be some passes of the engine old. They are brought up to date when the group is
 * idle and when it ends. They remain available after the leave.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `stats`: receives the counters. Its `size` must be set.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_group_stats(const struct galerna_group_t *group,
                                     uint16_t subgroup,
                                     struct galerna_group_stats_t *stats);

/**
 * Gets the space of this member's ring.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `ring`: receives the space. Its `size` must be set.
 *
 * May be called from any thread, also inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_group_ring(const struct galerna_group_t *group,
                                    uint16_t subgroup,
                                    struct galerna_group_ring_t *ring);

/**
 * Gets the progress of a group.
 *
 * In a busy group the result may be some passes of the engine old. In a group without a log all fields except `size`
 * are 0.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `frontiers`: receives the frontiers. Its `size` must be set.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_group_frontiers(const struct galerna_group_t *group,
                                         uint16_t subgroup,
                                         struct galerna_group_frontiers_t *frontiers);

/**
 * Waits until the message `sequence` and all messages before it are durable.
 *
 * Durable means: on the disks of all voters, or of as many as `log.durable_members` specifies.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `sequence`: the `sequence` of a message.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, or the group has no log), GALERNA_ERR_TIMED_OUT,
 * GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
 */
galerna_result_t galerna_group_wait_durable(struct galerna_group_t *group,
                                            uint16_t subgroup,
                                            uint64_t sequence,
                                            uint32_t timeout_ms);

/**
 * Waits until the closed time of the group reaches `time_ns`.
 *
 * From then on the log up to that time is the same at every member and does not change any more.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `time_ns`: nanoseconds since 1970, as in a record's `time_ns`.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, or the group has no log), GALERNA_ERR_TIMED_OUT,
 * GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
 */
galerna_result_t galerna_group_wait_closed(struct galerna_group_t *group,
                                           uint16_t subgroup,
                                           uint64_t time_ns,
                                           uint32_t timeout_ms);

/**
 * Waits until all messages that this process has sent, and all that were delivered here, are durable.
 *
 * Durable means: on the disks of all voters, or of as many as `log.durable_members` specifies. An open reservation
 * delays the call.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, or the group has no log), GALERNA_ERR_TIMED_OUT,
 * GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
 */
galerna_result_t galerna_group_persist(struct galerna_group_t *group,
                                       uint16_t subgroup,
                                       uint32_t timeout_ms);

/**
 * Writes a checkpoint of the application's state to this member's disk.
 *
 * The call requests the state through the `snapshot` callback. It stores the state once every message contained in it
 * is on the disks of all voters. When this process is started again, `restore` receives the state, and then `deliver`
 * receives the messages after it. galerna_group_trim_log() may delete the records before it.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `timeout_ms`: how long to wait for the group and the disk, in milliseconds. If the timeout passes, the checkpoint
 *   may still be stored later.
 * - `version`: receives the last version that the checkpoint covers. May be NULL. Not written after an error.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MISUSE (inside a callback, or the group has no log),
 * GALERNA_ERR_TIMED_OUT, GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, GALERNA_ERR_IO (the `snapshot` callback
 * failed), GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, and the error that stopped the group.
 */
galerna_result_t galerna_group_checkpoint(struct galerna_group_t *group,
                                          uint16_t subgroup,
                                          uint32_t timeout_ms,
                                          struct galerna_version_t *version);

/**
 * Deletes records before a version from the group's log on this member's disk, in whole segments.
 *
 * Waits for the disk.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `before`: the first record that is still needed. It must not be greater than the version of the newest checkpoint
 *   (see galerna_group_checkpoint()).
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, the group has no log, or no checkpoint covers
 * that much), GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_DAMAGED (the checkpoint is
 * damaged), GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO.
 */
galerna_result_t galerna_group_trim_log(struct galerna_group_t *group,
                                        uint16_t subgroup,
                                        struct galerna_version_t before);

/**
 * Opens the group's log on this member's disk for reading, also while it grows.
 *
 * The result is like a log from galerna_log_open_read_only(), but it also shows records that become durable here
 * later. Records of GALERNA_LOG_KIND_DECISION belong to the group: each ends a view and begins the next one. The
 * group's checkpoints cannot be read from it; they are passed to the `restore` callback.
 *
 * - `subgroup`: its number. Subgroup 0 contains every member.
 * - `out`: receives the log, or NULL after an error. Free it with galerna_log_free() or galerna_log_close(). The log
 *   may outlive the group; it then shows the records that were there at the end.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_MISUSE (the group has no log),
 * GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_group_log(const struct galerna_group_t *group,
                                   uint16_t subgroup,
                                   struct galerna_log_t **out);

/**
 * Leaves the group.
 *
 * The call accepts no further messages, sends those that were accepted before, and asks the other members to continue
 * without this process. They do so in the next view, which lists this member in `left`. By then they have
 * delivered all messages that this process sent. Callbacks continue during the call. Afterwards, calls that need the
 * group return GALERNA_ERR_LEFT. The handle must still be freed.
 *
 * An open reservation holds back the messages after it. The leave waits for half of its timeout for
 * galerna_group_commit() or galerna_group_abandon(), then drops the reservation: its message is not sent, and its
 * galerna_group_commit() returns GALERNA_ERR_LEFT. The application may write to its bytes until that commit, or until
 * galerna_group_free().
 *
 * While the process joins (galerna_group_join_start()), the call cancels the join and returns GALERNA_OK once `joined` has
 * returned, or GALERNA_ERR_TIMED_OUT. With GALERNA_DRIVE_DISPATCH it dispatches for that. After a join that failed there is
 * nothing to leave, and the call returns GALERNA_OK.
 *
 * - `timeout_ms`: how long to wait, in milliseconds. If the timeout passes before the other members go on without this
 *   process, it leaves anyway, and they see it fail.
 *
 * May be called from any thread, also while another thread is in galerna_group_dispatch(), but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback), GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LEFT, and the
 * error that stopped the group.
 */
galerna_result_t galerna_group_leave(struct galerna_group_t *group,
                                     uint32_t timeout_ms);

/**
 * Begins to leave the group, and returns at once.
 *
 * Like galerna_group_leave(), except that nothing waits: the `left` callback tells when the leave is over, and with which
 * result. Callbacks continue until then. With GALERNA_DRIVE_DISPATCH, `left` is called in galerna_group_dispatch(), which
 * then returns GALERNA_ERR_LEFT. If the handle is freed before, `left` is called with GALERNA_ERR_LEFT in
 * galerna_group_free().
 *
 * While the process joins (galerna_group_join_start()), the call cancels the join. Then the `joined` callback is called
 * with GALERNA_ERR_LEFT; or, if the process has joined by then, `joined` is called with GALERNA_OK, and `left` follows.
 *
 * - `timeout_ms`: how long the leave may last, in milliseconds. If the timeout passes before the other members go on
 *   without this process, it leaves anyway, they see it fail, and `left` is called with GALERNA_ERR_TIMED_OUT.
 *
 * May be called from any thread, also inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_LEFT (a leave has begun already), and the error that ended the join or stopped
 * the group. After an error `left` is not called.
 */
galerna_result_t galerna_group_leave_start(struct galerna_group_t *group,
                                           uint32_t timeout_ms);

/**
 * Frees a group's handle.
 *
 * Without a galerna_group_leave() before, the other members see this member fail. Calls that wait in other threads
 * return GALERNA_ERR_LEFT. When the function returns, no callback is running and none will run again. In callbacks that
 * run during the call the handle is invalid already. Open reservations are invalid. NULL and a handle that was already
 * freed are ignored and return GALERNA_OK.
 *
 * While the process joins, the call cancels the join and waits for its end. A process that is in the group by then
 * leaves it, for which it has one second. Threads of the library that ask or dial other processes may need a few more
 * seconds to end. They call nothing of the program, and give their descriptors back.
 *
 * May be called from any thread, but not inside a callback, and not while holding a lock that a callback waits for.
 *
 * Errors: GALERNA_ERR_HANDLE (`group` never was a group's handle), GALERNA_ERR_MISUSE (inside a callback; the group
 * continues).
 */
galerna_result_t galerna_group_free(struct galerna_group_t *group);

/**
 * Opens the log in a directory for writing, or makes a new one. Repairs the effects of a crash.
 *
 * - `directory`: the path of the directory, a UTF-8 string that ends with a zero byte. The directory is made if it
 *   does not exist. Not kept after the call.
 * - `options`: the options. NULL selects the defaults. Not kept after the call.
 * - `out`: receives the log, or NULL after an error. Free it with galerna_log_close().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_ARGUMENT, GALERNA_ERR_CONFIG (an option is out of its range), GALERNA_ERR_LOG_LOCKED (the log is
 * already open for writing), GALERNA_ERR_LOG_DAMAGED (durable data is lost), GALERNA_ERR_LOG_FOREIGN,
 * GALERNA_ERR_LOG_FORMAT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_log_open(const char *directory,
                                  const struct galerna_log_options_t *options,
                                  struct galerna_log_t **out);

/**
 * Opens a log for reading its present records. Changes nothing.
 *
 * The log may be open for writing at the same time, in this process or in another one. It may be a group's log.
 *
 * - `directory`: the path of the directory, a UTF-8 string that ends with a zero byte. Not kept after the call.
 * - `out`: receives the log, or NULL after an error. Free it with galerna_log_close().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_ARGUMENT, GALERNA_ERR_IO (there is no log), GALERNA_ERR_LOG_DAMAGED, GALERNA_ERR_LOG_FORMAT,
 * GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_log_open_read_only(const char *directory,
                                            struct galerna_log_t **out);

/**
 * Makes all appended records durable and frees the log.
 *
 * The log is freed even if that fails. The call waits for the disk and for running calls in other threads. NULL and a
 * log that was already closed are ignored and return GALERNA_OK.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE (`log` never was a log's handle), GALERNA_ERR_MISUSE (inside a callback; the log stays
 * open), GALERNA_ERR_LOG_FULL or GALERNA_ERR_LOG_FAILED (not all appended records are durable).
 */
galerna_result_t galerna_log_close(struct galerna_log_t *log);

/**
 * Closes a log as galerna_log_close() does, but does not report whether all records are durable.
 *
 * NULL and a log that was already closed are ignored and return GALERNA_OK.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE (`log` never was a log's handle), GALERNA_ERR_MISUSE (inside a callback; the log stays
 * open).
 */
galerna_result_t galerna_log_free(struct galerna_log_t *log);

/**
 * Appends a record with a copy of `length` bytes, the next version and the present time.
 *
 * The record is durable after galerna_log_sync() or galerna_log_wait_durable(). It can be read only when it is
 * durable.
 *
 * - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
 * - `timeout_ms`: how long to wait while `backlog_max_bytes` are not durable yet, in milliseconds. 0 does not wait.
 *   Inside a callback it counts as 0.
 * - `version`: receives the record's version. May be NULL.
 *
 * May be called from any thread. Records of one thread are in the order of its calls.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LOG_RECORD_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the
 * disk is behind and the timeout is 0), GALERNA_ERR_TIMED_OUT (the disk stayed behind), GALERNA_ERR_LOG_FULL (there is
 * no space, and earlier records wait for it), GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE (the log is open for reading
 * only).
 */
galerna_result_t galerna_log_append(struct galerna_log_t *log,
                                    const void *data,
                                    size_t length,
                                    uint32_t timeout_ms,
                                    struct galerna_version_t *version);

/**
 * Appends a record as galerna_log_append() does with a timeout of 0. Never waits.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LOG_RECORD_TOO_LARGE, GALERNA_ERR_WOULD_BLOCK (the
 * disk is behind), GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE (the log is open for reading
 * only).
 */
galerna_result_t galerna_log_try_append(struct galerna_log_t *log,
                                        const void *data,
                                        size_t length,
                                        struct galerna_version_t *version);

/**
 * Waits until all records that were appended before the call are durable.
 *
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE
 * (inside a callback, or the log is open for reading only).
 */
galerna_result_t galerna_log_sync(struct galerna_log_t *log,
                                  uint32_t timeout_ms);

/**
 * Waits until the record of this version and all records before it are durable.
 *
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_MISUSE
 * (inside a callback, or the log is open for reading only).
 */
galerna_result_t galerna_log_wait_durable(struct galerna_log_t *log,
                                          struct galerna_version_t version,
                                          uint32_t timeout_ms);

/**
 * Gets the version of the last durable record, or `0.0` if there is none yet. Never waits.
 *
 * - `version`: receives the version.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`version` is NULL), GALERNA_ERR_MISUSE (the log is open for
 * reading only. Such a log also contains records that another process has not synced yet, see galerna_log_end()).
 */
galerna_result_t galerna_log_durable(const struct galerna_log_t *log,
                                     struct galerna_version_t *version);

/**
 * Removes the records before a version, in whole segments and durably.
 *
 * The rest begins at galerna_log_oldest(), which may be before that version.
 *
 * - `before`: the first record that is still needed.
 * - `timeout_ms`: how long to wait, in milliseconds. If the timeout passes, the log is trimmed anyway.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO, GALERNA_ERR_MISUSE
 * (inside a callback, or the log is open for reading only).
 */
galerna_result_t galerna_log_trim(struct galerna_log_t *log,
                                  struct galerna_version_t before,
                                  uint32_t timeout_ms);

/**
 * Gets the version of the oldest record.
 *
 * - `version`: receives the version, or `0.0` if there is no record.
 * - `found`: receives 1, or 0 if there is no record. May be NULL. Only in a group's log can `0.0` be the version of a
 *   record.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`version` is NULL), GALERNA_ERR_LOG_DAMAGED, GALERNA_ERR_IO.
 */
galerna_result_t galerna_log_oldest(const struct galerna_log_t *log,
                                    struct galerna_version_t *version,
                                    int *found);

/**
 * Gets the version of the last record that can be read.
 *
 * This is the last durable record. In a log that is open for reading only, it is the last record at the time of
 * opening. The version remains known when a trim leaves no record.
 *
 * - `version`: receives the version, or `0.0` if there never was a record.
 * - `found`: receives 1, or 0 if there never was a record. May be NULL. Only in a group's log can `0.0` be the version
 *   of a record.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`version` is NULL).
 */
galerna_result_t galerna_log_end(const struct galerna_log_t *log,
                                 struct galerna_version_t *version,
                                 int *found);

/**
 * Gets the record of exactly this version, if it is durable.
 *
 * - `out`: receives the entry, or NULL if there is none or after an error. Free it with galerna_log_entry_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
 * (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_log_get(const struct galerna_log_t *log,
                                 struct galerna_version_t version,
                                 struct galerna_log_entry_t **out);

/**
 * Gets the first durable record of this version or a greater one.
 *
 * - `out`: receives the entry, or NULL if there is none or after an error. Free it with galerna_log_entry_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
 * (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_log_first_at_or_after(const struct galerna_log_t *log,
                                               struct galerna_version_t version,
                                               struct galerna_log_entry_t **out);

/**
 * Gets the last durable record of this time or an earlier one. It gives the state at that moment.
 *
 * - `time_ns`: nanoseconds since 1970.
 * - `out`: receives the entry, or NULL if there is none or after an error. Free it with galerna_log_entry_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
 * (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_log_at_time(const struct galerna_log_t *log,
                                     uint64_t time_ns,
                                     struct galerna_log_entry_t **out);

/**
 * Makes an iterator over the records of a log.
 *
 * - `from`: the iteration begins with the record of this version, or with the next one after it. NULL begins with the
 *   oldest record. Not kept after the call.
 * - `out`: receives the iterator, or NULL after an error. Free it with galerna_log_iter_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LIMIT.
 */
galerna_result_t galerna_log_iterate(const struct galerna_log_t *log,
                                     const struct galerna_version_t *from,
                                     struct galerna_log_iter_t **out);

/**
 * Gets the next record, if it is durable.
 *
 * - `out`: receives the entry, or NULL at the end of the log and after an error. Free it with
 *   galerna_log_entry_free().
 *
 * At the end of the log, a later call continues with records that have been appended since. After an error of the log,
 * the iterator returns no more records.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_TRIMMED, GALERNA_ERR_LOG_DAMAGED
 * (the text names the file and the offset), GALERNA_ERR_IO, GALERNA_ERR_LIMIT (the iterator does not advance).
 */
galerna_result_t galerna_log_iter_next(struct galerna_log_iter_t *iter,
                                       struct galerna_log_entry_t **out);

/**
 * Frees an iterator. The entries that it returned remain valid.
 *
 * NULL and a handle that was already freed are ignored. May be called from any thread.
 */
void galerna_log_iter_free(struct galerna_log_iter_t *iter);

/**
 * Gets the contents of a record.
 *
 * - `record`: receives the contents. Its `size` must be set. The payload is valid until the entry is freed.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT.
 */
galerna_result_t galerna_log_entry_record(const struct galerna_log_entry_t *entry,
                                          struct galerna_log_record_t *record);

/**
 * Frees an entry together with its payload.
 *
 * NULL and a handle that was already freed are ignored. May be called from any thread.
 */
void galerna_log_entry_free(struct galerna_log_entry_t *entry);

/**
 * Begins a checkpoint of the application's state.
 *
 * Write it with galerna_log_checkpoint_write() and commit it with galerna_log_checkpoint_commit(). Then
 * galerna_log_trim() may remove the records that it covers.
 *
 * - `version`: the last version that the checkpoint covers. Only one checkpoint of each version can be written at a
 *   time.
 * - `time_ns`: a time that is stored with the checkpoint, in nanoseconds since 1970.
 * - `out`: receives the writer, or NULL after an error. It is freed by galerna_log_checkpoint_commit() or
 *   galerna_log_checkpoint_abandon().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_FULL, GALERNA_ERR_IO,
 * GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (the log is open for reading only).
 */
galerna_result_t galerna_log_checkpoint_begin(struct galerna_log_t *log,
                                              struct galerna_version_t version,
                                              uint64_t time_ns,
                                              struct galerna_log_checkpoint_writer_t **out);

/**
 * Appends `length` bytes to a checkpoint.
 *
 * - `data`: the bytes. May be NULL when `length` is 0. Not kept after the call.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LOG_FULL, GALERNA_ERR_IO. After GALERNA_ERR_LOG_FULL
 * or GALERNA_ERR_IO the checkpoint must be abandoned.
 */
galerna_result_t galerna_log_checkpoint_write(struct galerna_log_checkpoint_writer_t *writer,
                                              const void *data,
                                              size_t length);

/**
 * Makes a checkpoint durable, replaces the older ones, and frees the writer.
 *
 * The writer is freed even if the commit fails.
 *
 * - `timeout_ms`: how long to wait for the log, in milliseconds. If the timeout passes, the log may still commit the
 *   checkpoint later.
 *
 * May be called from any thread, but not inside a callback.
 *
 * Errors: GALERNA_ERR_HANDLE (the writer is invalid, or its log was closed), GALERNA_ERR_TIMED_OUT,
 * GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO, GALERNA_ERR_MISUSE (inside a callback; the writer
 * remains valid).
 */
galerna_result_t galerna_log_checkpoint_commit(struct galerna_log_checkpoint_writer_t *writer,
                                               uint32_t timeout_ms);

/**
 * Abandons a checkpoint, deletes its data, and frees the writer.
 *
 * NULL and a writer that was already freed, also by a commit, are ignored. May be called from any thread.
 */
void galerna_log_checkpoint_abandon(struct galerna_log_checkpoint_writer_t *writer);

/**
 * Opens the newest checkpoint and verifies all of it.
 *
 * - `out`: receives the checkpoint, or NULL if there is none or after an error. Free it with
 *   galerna_log_checkpoint_free().
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_LOG_DAMAGED (the checkpoint has
 * changed since it was written; the text names the file and the offset), GALERNA_ERR_LOG_FOREIGN,
 * GALERNA_ERR_LOG_FORMAT, GALERNA_ERR_IO, GALERNA_ERR_LIMIT, GALERNA_ERR_MISUSE (the log is from galerna_group_log()).
 */
galerna_result_t galerna_log_checkpoint_load(const struct galerna_log_t *log,
                                             struct galerna_log_checkpoint_t **out);

/**
 * Gets information about a checkpoint.
 *
 * - `info`: receives the information. Its `size` must be set.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT.
 */
galerna_result_t galerna_log_checkpoint_info(const struct galerna_log_checkpoint_t *checkpoint,
                                             struct galerna_log_checkpoint_info_t *info);

/**
 * Reads the next bytes of a checkpoint: `length` of them, or fewer at its end.
 *
 * - `buffer`: receives the bytes. May be NULL when `length` is 0.
 * - `got`: receives the number of bytes read. It is less than `length` only at the end of the checkpoint, and 0 after
 *   an error.
 *
 * May be called from any thread.
 *
 * Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_IO.
 */
galerna_result_t galerna_log_checkpoint_read(struct galerna_log_checkpoint_t *checkpoint,
                                             void *buffer,
                                             size_t length,
                                             size_t *got);

/**
 * Frees a checkpoint's handle. The checkpoint itself remains on disk.
 *
 * NULL and a handle that was already freed are ignored. May be called from any thread.
 */
void galerna_log_checkpoint_free(struct galerna_log_checkpoint_t *checkpoint);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GALERNA_H */
