# The server's parsers: request bodies and URLs, configuration, headers. Included by CMakeLists.txt.
pkg_check_modules(FUZZ_SERVER REQUIRED libcjson libuv)
set(server ${PROJECT_SOURCE_DIR}/server)
set(server_flags ${flags} -I${server} ${FUZZ_SERVER_CFLAGS})
set(server_objects)
foreach(source ${server}/api/fields.c ${server}/api/params.c ${server}/api/problem.c ${server}/api/classes.c
        ${server}/api/keys.c ${server}/api/infer_request.c ${server}/api/tensors.c ${server}/http/text.c ${server}/http/proxy.c ${server}/base/json_write.c
        ${server}/base/format.c
        ${server}/settings/file.c ${server}/settings/models.c ${server}/settings/print.c
        ${server}/settings/settings.c ${server}/settings/table.c ${server}/base/options.c ${server}/base/option_value.c ${server}/base/read_file.c
        ${server}/base/json_read.c ${engine}/common/json.c ${engine}/common/utf8.c ${engine}/common/status.c ${CMAKE_BINARY_DIR}/server/api/embed_embedded_classes.c)
    cmake_path(GET source STEM name)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/server_${name}.o)
    add_custom_command(OUTPUT ${object}
        COMMAND ${FUZZ_CLANG} ${server_flags} -MD -MF ${object}.d -c ${source} -o ${object}
        DEPENDS ${source} DEPFILE ${object}.d VERBATIM)
    list(APPEND server_objects ${object})
endforeach()

# An archive: a target takes of it what it needs.
set(server_archive ${CMAKE_CURRENT_BINARY_DIR}/libserver_fuzz.a)
add_custom_command(OUTPUT ${server_archive}
    COMMAND ${CMAKE_COMMAND} -E rm -f ${server_archive}
    COMMAND ${CMAKE_AR} crs ${server_archive} ${server_objects}
    DEPENDS ${server_objects} VERBATIM)

function(imf_server_fuzz name)
    set(target ${CMAKE_CURRENT_BINARY_DIR}/fuzz_${name})
    set(source ${CMAKE_CURRENT_SOURCE_DIR}/fuzz_${name}.c)
    add_custom_command(OUTPUT ${target}
        COMMAND ${FUZZ_CLANG} ${server_flags} -fsanitize=fuzzer -MD -MF ${target}.d ${source}
            ${server_archive} ${FUZZ_SERVER_LDFLAGS} -o ${target}
        DEPENDS ${source} ${server_archive} DEPFILE ${target}.d VERBATIM)
    set_property(GLOBAL APPEND PROPERTY IMFD_FUZZ_TARGETS ${target})
    set(found ${CMAKE_CURRENT_BINARY_DIR}/found/${name})
    file(MAKE_DIRECTORY ${found})
    add_test(NAME fuzz_${name} COMMAND ${target} -max_total_time=${IMFD_FUZZ_SECONDS} -timeout=60
        -rss_limit_mb=1024 -max_len=4096 -verbosity=0 -print_final_stats=1
        -artifact_prefix=${CMAKE_CURRENT_BINARY_DIR}/ ${found} ${ARGN})
    set_tests_properties(fuzz_${name} PROPERTIES LABELS "release;fuzz" TIMEOUT 120)
endfunction()

imf_server_fuzz(request ${corpus}/request)
imf_server_fuzz(settings ${corpus}/settings)
imf_server_fuzz(headers ${corpus}/headers)

# The wire: heads and chunks by themselves, and HTTP to the real server in this process. HTTP, API and
# settings are built for fuzzing; scheduler and engine come from the build as they are, in one library.
# Comparisons are not traced: that costs a third of the speed, and found nothing that counters did not.
set(wire_flags -O2 -fno-sanitize-coverage=trace-cmp)
function(imf_fuzz_objects out)
    set(objects)
    foreach(source ${ARGN})
        cmake_path(GET source PARENT_PATH folder)
        cmake_path(GET folder STEM folder)
        cmake_path(GET source STEM name)
        set(object ${CMAKE_CURRENT_BINARY_DIR}/${folder}_${name}.o)
        add_custom_command(OUTPUT ${object}
            COMMAND ${FUZZ_CLANG} ${server_flags} ${wire_flags} ${WIRE_CFLAGS} -MD -MF ${object}.d -c ${source} -o ${object}
            DEPENDS ${source} DEPFILE ${object}.d VERBATIM)
        list(APPEND objects ${object})
    endforeach()
    set(${out} ${objects} PARENT_SCOPE)
endfunction()

function(imf_wire_fuzz name)
    set(target ${CMAKE_CURRENT_BINARY_DIR}/fuzz_${name})
    set(source ${CMAKE_CURRENT_SOURCE_DIR}/fuzz_${name}.c)
    add_custom_command(OUTPUT ${target}
        COMMAND ${FUZZ_CLANG} ${server_flags} ${wire_flags} ${WIRE_CFLAGS} -fsanitize=fuzzer -MD -MF ${target}.d ${source}
            ${ARGN} -o ${target}
        DEPENDS ${source} ${wire_objects} fuzz_engine DEPFILE ${target}.d VERBATIM)
    set_property(GLOBAL APPEND PROPERTY IMFD_FUZZ_TARGETS ${target})
    set(found ${CMAKE_CURRENT_BINARY_DIR}/found/${name})
    file(MAKE_DIRECTORY ${found})
    add_test(NAME fuzz_${name} COMMAND ${target} -max_total_time=${IMFD_FUZZ_SECONDS} -timeout=60
        -rss_limit_mb=2048 -max_len=4096 -verbosity=0 -print_final_stats=1
        -artifact_prefix=${CMAKE_CURRENT_BINARY_DIR}/ ${found} ${corpus}/${name})
    set_tests_properties(fuzz_${name} PROPERTIES LABELS "release;fuzz" TIMEOUT 120)
endfunction()

pkg_check_modules(WIRE REQUIRED libcjson libuv libmicrohttpd libdeflate)
file(GLOB wire_sources CONFIGURE_DEPENDS ${server}/http/*.c ${server}/api/*.c ${server}/settings/*.c)
list(APPEND wire_sources ${server}/base/log.c ${server}/base/blob.c ${server}/base/json_write.c)
foreach(embedded web openapi classes)
    list(APPEND wire_sources ${CMAKE_BINARY_DIR}/server/api/embed_embedded_${embedded}.c)
endforeach()
imf_fuzz_objects(wire_objects ${wire_sources})
add_library(fuzz_engine SHARED probe.c)
set(whole imfd_scheduler imfd_base imf_core imf_files imf_common)
list(TRANSFORM whole REPLACE "(.+)" "$<TARGET_FILE:\\1>" OUTPUT_VARIABLE whole_files)
target_link_libraries(fuzz_engine PRIVATE -Wl,--whole-archive ${whole_files} -Wl,--no-whole-archive ${whole})
imf_wire_fuzz(wire ${wire_objects} $<TARGET_FILE:fuzz_engine> -Wl,-rpath,${CMAKE_CURRENT_BINARY_DIR} ${WIRE_LDFLAGS} -lm)
imf_wire_fuzz(head ${CMAKE_CURRENT_BINARY_DIR}/http_head.o ${CMAKE_CURRENT_BINARY_DIR}/http_chunks.o)
